"""How soon nothing is left when a kernel ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence

import psutil

from tests.bench.notebook import Notebook, dask_environment, with_extension
from tests.bench.processes import folders_of, until_gone, with_token
from tests.bench.rows import Row, spread

_USE = """%%flyte_task dask_env
from distributed import Client
client = Client()
client.wait_for_workers(4)
client.gather(client.map(abs, range(100)))
"""
_LIMIT = 30.0
_LEAST = 7
"""Processes that there must be before the end: kernel, scheduler, four workers, driver."""


def ending(quick: bool) -> list[Row]:
    """Time the end of a kernel with a Dask cluster of 4 workers, to no process and no folder.

    Once by SIGKILL, once as Jupyter shuts a kernel down. The kernel's own process is among those
    that must be gone. The slowest of some runs is what counts.
    """
    rounds = 1 if quick else 5
    cells = (dask_environment(4), _USE)
    killed, stopped = (
        [seconds_to_nothing(end, cells, _LEAST) for _ in range(rounds)] for end in (kill, shut_down)
    )
    return [
        Row("kernel SIGKILL to no process", spread(killed), "", None, "<= 5 s", max(killed) <= 5),
        Row("clean shutdown to no process", spread(stopped), "", None, "<= 3 s", max(stopped) <= 3),
    ]


def kill(notebook: Notebook) -> None:
    """End a kernel by force."""
    os.kill(notebook.pid, signal.SIGKILL)


def shut_down(notebook: Notebook) -> None:
    """End a kernel as Jupyter does."""
    notebook.manager.request_shutdown()


def seconds_to_nothing(
    end: Callable[[Notebook], None],
    cells: Sequence[str],
    least: int,
    others: Callable[[], Iterable[object]] = tuple,
) -> float:
    """Run cells in a new kernel, end it, and time how long anything of it is left.

    Parameters
    ----------
    end
        `kill` or `shut_down`.
    cells
        What starts a cluster and uses it.
    least
        Processes that there must be before the end.
    others
        What an engine may leave besides processes and folders.
    """
    with with_extension() as notebook:
        for cell in cells:
            notebook.run(cell)
        before, kernel = notebook.processes(), notebook.pid
        assert len(before) >= least
        assert len(folders_of(kernel)) == 1

        def left() -> Sequence[object]:
            # The token finds whatever was started meanwhile.
            known = [process for process in before if _lives(process)]
            return known or [*folders_of(kernel), *with_token(notebook.token), *others()]

        end(notebook)
        return until_gone(left, _LIMIT)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
