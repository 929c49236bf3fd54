"""How soon nothing is left when a kernel ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

import psutil

from tests.bench.clusters import Cluster
from tests.bench.notebook import Notebook, with_extension
from tests.bench.processes import folders_of, ownerless_segments, until_gone, with_token
from tests.bench.rows import Row, spread

_LIMIT = 30.0


def ends(cluster: Cluster, rounds: int, shutdown: float = 5, *, busy: bool = False) -> list[Row]:
    """Time the end of a kernel with a cluster, to no process, folder or shared memory.

    Once by SIGKILL, once as Jupyter shuts a kernel down. The kernel's own process is among those
    that must be gone. The slowest of some runs is what counts.

    Parameters
    ----------
    cluster
        What the kernel has.
    rounds
        Runs of each.
    shutdown
        Most seconds that a shutdown may take; a SIGKILL may take 5.
    busy
        Whether a cell runs when the end comes.
    """
    rows = []
    for name, end, target in (
        ("kernel SIGKILL", _kill, 5.0),
        ("clean shutdown", _shut_down, shutdown),
    ):
        times = [_seconds_to_nothing(end, cluster, busy) for _ in range(rounds)]
        rows.append(
            Row(
                f"{cluster.engine}, {cluster.shape}: {name} to nothing left",
                spread(times),
                target=f"<= {target:g} s",
                met=max(times) <= target,
            )
        )
    return rows


def _kill(notebook: Notebook) -> None:
    os.kill(notebook.pid, signal.SIGKILL)


def _shut_down(notebook: Notebook) -> None:
    notebook.manager.interrupt_kernel()  # one that is busy hears nothing else
    notebook.manager.request_shutdown()


def _seconds_to_nothing(end: Callable[[Notebook], None], cluster: Cluster, busy: bool) -> float:
    segments = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    with with_extension() as notebook:
        notebook.run(cluster.declare)
        if busy:
            notebook.await_text(notebook.send(cluster.occupy))
        else:
            notebook.run(cluster.use)
        before, kernel = notebook.processes(), notebook.pid
        assert len(before) >= cluster.least
        assert len(folders_of(kernel)) == 1

        def left() -> Sequence[object]:
            # The token finds whatever was started meanwhile.
            known = [process for process in before if _lives(process)]
            return known or [
                *folders_of(kernel),
                *with_token(notebook.token),
                *ownerless_segments(segments),
            ]

        end(notebook)
        return until_gone(left, _LIMIT)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
