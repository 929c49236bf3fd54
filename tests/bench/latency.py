"""What one more remote cell costs when everything is warm."""

from __future__ import annotations

from statistics import median

from tests.bench.clusters import PLAIN, dask
from tests.bench.notebook import Notebook, in_turns, ipyparallel_engine, with_extension
from tests.bench.rows import Row, duration

_CELLS = {
    "here": "pass",
    "plain": "%%flyte_task plain_env\npass",
    "dask": "%%flyte_task dask_env\npass",
    "px": "%%px\npass",
}


def noop(quick: bool) -> list[Row]:
    """Time a cell that does nothing, beyond the time of a plain cell that does nothing.

    Round trips of an execute request, reply and idle status both, in one kernel and in turns: a
    plain cell, a task cell in a plain and in a Dask environment, and ``%%px`` of ipyparallel with
    one engine.
    """
    with with_extension() as notebook:
        notebook.run(f"{PLAIN.declare}\n{dask(2).declare}")
        with ipyparallel_engine(notebook):
            return _rows(notebook, 15 if quick else 80)


def _rows(notebook: Notebook, rounds: int) -> list[Row]:
    times = {name: median(found) for name, found in in_turns(notebook, _CELLS, rounds).items()}
    here = times["here"]
    peer = times["px"] - here
    rows = []
    for name in ("plain", "dask"):
        ours = times[name] - here
        rows.append(
            Row(
                f"warm no-op cell, {name} environment, over a plain cell's {duration(here)}",
                duration(ours),
                f"{duration(peer)} (%%px)",
                ours / peer,
                "<= %%px and <= 10 ms",
                ours <= min(peer, 0.010),
            )
        )
    return rows
