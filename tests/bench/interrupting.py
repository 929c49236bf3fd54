"""How soon a cell ends that the user interrupts, whatever it waits for."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench.clusters import ALL_REDUCE, PLAIN, RAY, SPARK, Cluster, dask, pytorch
from tests.bench.notebook import Notebook, with_extension
from tests.bench.rows import Row, spread

_LONG = 60
_CELL = """%%flyte_task {environment}
import time
{before}
print("ready", flush=True)
try:
    {wait}
except BaseException:
    print("interrupted", flush=True)
    raise
"""


@dataclass(frozen=True)
class _Wait:
    """What a cell waits for, and what it does before."""

    name: str
    wait: str
    before: str = ""


_WAITS: list[tuple[Cluster, list[_Wait]]] = [
    (
        PLAIN,
        [
            _Wait("time.sleep", f"time.sleep({_LONG})"),
            _Wait("a loop", "for _ in iter(int, 1): pass"),
            _Wait("an await", f"await asyncio.sleep({_LONG})", "import asyncio"),
        ],
    ),
    (
        dask(2),
        [
            _Wait(
                "a future",
                f"client.submit(time.sleep, {_LONG}, pure=False).result()",
                "from distributed import Client\nclient = Client()",
            )
        ],
    ),
    (
        RAY,
        [
            _Wait(
                "ray.get",
                f"ray.get(ray.remote(lambda: time.sleep({_LONG})).remote())",
                "import ray",
            )
        ],
    ),
    (
        SPARK,
        [
            _Wait(
                "a job",
                f"numbers.foreach(lambda _: time.sleep({_LONG}))",
                "numbers = spark.sparkContext.parallelize(range(2), 2)",
            )
        ],
    ),
    (
        pytorch(),
        [
            _Wait("ranks asleep", f"time.sleep({_LONG})", ALL_REDUCE),
            _Wait(
                "an all-reduce",
                f"dist.get_rank() and time.sleep({_LONG}); dist.all_reduce(total)",
                ALL_REDUCE,
            ),
        ],
    ),
]


def interrupts(quick: bool) -> list[Row]:
    """Time an interrupt, as Jupyter sends it, to what the cell's own code prints on it.

    And to the cell's end, when its traceback has been formatted, as in any notebook. The slowest
    is what counts.
    """
    rounds = 3 if quick else 10
    rows = []
    for cluster, waits in _WAITS:
        with with_extension() as notebook:
            notebook.run(cluster.declare)
            notebook.run(cluster.use)
            for wait in waits:
                cell = _CELL.format(
                    environment=cluster.environment, before=wait.before, wait=wait.wait
                )
                heard, ended = zip(
                    *(_interrupt(notebook, cell) for _ in range(rounds)), strict=True
                )
                rows.append(
                    Row(
                        f"{cluster.engine}: interrupt of a cell in {wait.name}",
                        spread(heard),
                        f"{spread(ended)} (cell's end)",
                        target="<= 0.2 s",
                        met=max(heard) <= 0.2,
                    )
                )
    return rows


def _interrupt(notebook: Notebook, code: str) -> tuple[float, float]:
    """Return the seconds until the interrupted code says so, and until its cell is at its end."""
    message = notebook.send(code)
    notebook.await_text(message)
    time.sleep(0.5)  # until it is in the midst of it
    sent = time.time()
    cell = notebook.interrupt(message)
    heard = [at for at, text in cell.streams if "interrupted" in text]
    return min(heard, default=sent + cell.seconds) - sent, cell.seconds
