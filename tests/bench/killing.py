"""Kernels killed at random moments, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.bench.clusters import PLAIN, RAY, SPARK, Cluster, dask, pytorch
from tests.bench.notebook import Notebook, with_extension
from tests.bench.processes import (
    folders_of,
    listening,
    ownerless_segments,
    until_gone,
    with_token,
)
from tests.bench.rows import Row, duration

_TOGETHER = 3
_PATIENCE = 10.0


@dataclass(frozen=True)
class Death:
    """One kernel's end: when it was killed, and what was left some seconds after."""

    moment: str
    seconds: float
    processes: int
    folders: int
    sockets: int


def dask_kills(quick: bool) -> list[Row]:
    """Kill kernels that have a Dask cluster of some size, and plain ones."""

    def choose(chance: random.Random) -> Cluster:
        return chance.choice([PLAIN, dask(chance.randint(1, 3))])

    return _kills("Dask and plain", choose, 3.0, quick)


def ray_kills(quick: bool) -> list[Row]:
    """Kill kernels that have a Ray cluster."""
    return _kills("Ray", lambda _: RAY, 12.0, quick)


def spark_kills(quick: bool) -> list[Row]:
    """Kill kernels that have a Spark cluster."""
    return _kills("Spark", lambda _: SPARK, 15.0, quick)


def pytorch_kills(quick: bool) -> list[Row]:
    """Kill kernels that have ranks of PyTorch."""

    def choose(chance: random.Random) -> Cluster:
        return pytorch("ranks", chance.randint(1, 2), nodes="1:2")

    return _kills("PyTorch", choose, 8.0, quick)


def _kills(
    engine: str, choose: Callable[[random.Random], Cluster], start: float, quick: bool
) -> list[Row]:
    """Kill kernels while their cluster starts, runs a task, is scaled, or is stopped.

    Three at a time; when exactly is random but the same in each benchmark. Counted are processes
    that were started from a kernel, runtime folders, sockets that listen, segments in ``/dev/shm``
    that nobody holds, and entries of the temporary folder.

    Parameters
    ----------
    engine
        What the rows say of it.
    choose
        Says which cluster.
    start
        Seconds that one takes to start, three at a time, and a bit more.
    quick
        Whether ten kernels must do, for a hundred.
    """
    place = Path(os.environ["JUPYTER_RUNTIME_DIR"]).parent
    segments = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    files = _temporary(place)
    count = 10 if quick else 100
    pool = ThreadPoolExecutor(_TOGETHER)
    try:
        ends = list(pool.map(lambda number: _try(number, choose, start, place), range(count)))
    finally:
        pool.shutdown(cancel_futures=True)
    deaths = [end for end in ends if isinstance(end, Death)]
    left = {
        "processes": sum(death.processes for death in deaths),
        "folders": sum(death.folders for death in deaths),
        "sockets": sum(death.sockets for death in deaths),
        "segments": len(ownerless_segments(segments)),
        "temporary files": len(_temporary(place) - files),
        "failures": count - len(deaths),
    }
    slowest = max(deaths, key=lambda death: death.seconds)
    text = ", ".join(f"{number} {kind}" for kind, number in left.items())
    name = f"{engine}: {count} kernels killed"
    return [
        Row(f"{name}: left", text, "", None, "0 of each", not any(left.values())),
        Row(
            f"{name}, {_TOGETHER} at a time: slowest to be gone",
            f"{duration(slowest.seconds)} ({slowest.moment})",
        ),
    ]


def _temporary(place: Path) -> set[Path]:
    """Return what is in the temporary folder, and what this user has in those of the engines."""
    found = set((place / "tmp").iterdir())
    for pattern in ("ray/*", "hsperfdata_*/*"):
        for path in Path("/tmp").glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_uid == os.getuid():
                    found.add(path)
    return found


def _try(
    number: int, choose: Callable[[random.Random], Cluster], start: float, place: Path
) -> Death | None:
    """Have a kernel die, or say why it did not: the others are worth having."""
    try:
        return _die(number, choose, start, place)
    except Exception as error:  # noqa: BLE001 - it is counted
        print(f"kernel {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None


def _die(
    number: int, choose: Callable[[random.Random], Cluster], start: float, place: Path
) -> Death:
    chance = random.Random(number)
    cluster = choose(chance)
    within = {"start": start, "run": start / 4, "scale": start / 3, "stop": 0.5}
    if not cluster.grow:
        del within["scale"]
    moment = list(within)[number % len(within)]
    with with_extension() as notebook:
        kernel = notebook.pid
        _bring_to(notebook, cluster, moment, chance)
        time.sleep(chance.uniform(0, within[moment]))
        os.kill(kernel, signal.SIGKILL)
        seconds = until_gone(lambda: [*folders_of(kernel), *with_token(notebook.token)], _PATIENCE)
        processes, folders = notebook.processes(), folders_of(kernel)
        sockets = [
            name
            for name in listening(place, processes)
            if not name.startswith("/") or f"/{kernel}-" in name
        ]
        return Death(moment, seconds, len(processes), len(folders), len(sockets))


def _bring_to(notebook: Notebook, cluster: Cluster, moment: str, chance: random.Random) -> None:
    """Begin what the kernel is to be killed in the midst of."""
    name = cluster.environment
    notebook.run(cluster.declare)
    if moment == "start":
        notebook.send(cluster.occupy)
        return
    notebook.run(f"%flyte up {name}")
    if moment == "run":
        notebook.send(cluster.occupy)
    elif moment == "scale":
        notebook.send(f"%flyte scale {name} {chance.choice(cluster.grow)}")
    elif chance.random() < 0.5:
        notebook.send(f"%flyte down {name}")
    else:
        notebook.manager.request_shutdown()
