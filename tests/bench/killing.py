"""Kernels killed at random moments, and what is left of them."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.bench.notebook import PLAIN, Notebook, dask_environment, with_extension
from tests.bench.processes import (
    folders_of,
    listening,
    ownerless_segments,
    until_gone,
    with_token,
)
from tests.bench.rows import Row, duration

_MOMENTS = {"start": 3.0, "run": 0.6, "scale": 1.0, "stop": 0.5}
"""Within how many seconds of each the kernel is killed."""
_TOGETHER = 3
_PATIENCE = 10.0

# A process in a session of its own, such as a task may start, must not escape.
_WORK = """import subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Death:
    """One kernel's end: when it was killed, and what was left some seconds after."""

    moment: str
    seconds: float
    processes: int
    folders: int
    sockets: int


def kills(quick: bool) -> list[Row]:
    """Kill kernels while their cluster starts, runs a task, is scaled, or is stopped.

    Three at a time, plain and Dask environments; which, and when exactly, is random but the same in
    each benchmark. Counted are processes that were started from a kernel, runtime folders, sockets
    that listen, segments in ``/dev/shm`` that nobody holds, and entries of the temporary folder.
    """
    place = Path(os.environ["JUPYTER_RUNTIME_DIR"]).parent
    segments = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    files = set((place / "tmp").iterdir())
    count = 10 if quick else 100
    pool = ThreadPoolExecutor(_TOGETHER)
    try:
        deaths = list(pool.map(lambda number: _die(number, place), range(count)))
    finally:
        pool.shutdown(cancel_futures=True)
    left = {
        "processes": sum(death.processes for death in deaths),
        "folders": sum(death.folders for death in deaths),
        "sockets": sum(death.sockets for death in deaths),
        "segments": len(ownerless_segments(segments)),
        "temporary files": len(set((place / "tmp").iterdir()) - files),
    }
    slowest = max(deaths, key=lambda death: death.seconds)
    text = ", ".join(f"{number} {kind}" for kind, number in left.items())
    return [
        Row(f"{count} kernels killed: left", text, "", None, "0 of each", not any(left.values())),
        Row(
            f"{count} kernels killed, {_TOGETHER} at a time: slowest to be gone",
            f"{duration(slowest.seconds)} ({slowest.moment})",
        ),
    ]


def _die(number: int, place: Path) -> Death:
    chance = random.Random(number)
    moment = list(_MOMENTS)[number % len(_MOMENTS)]
    with with_extension() as notebook:
        kernel = notebook.pid
        _bring_to(notebook, moment, chance)
        time.sleep(chance.uniform(0, _MOMENTS[moment]))
        os.kill(kernel, signal.SIGKILL)
        seconds = until_gone(lambda: [*folders_of(kernel), *with_token(notebook.token)], _PATIENCE)
        processes, folders = notebook.processes(), folders_of(kernel)
        sockets = [
            name
            for name in listening(place, processes)
            if not name.startswith("/") or f"/{kernel}-" in name
        ]
        return Death(moment, seconds, len(processes), len(folders), len(sockets))


def _bring_to(notebook: Notebook, moment: str, chance: random.Random) -> None:
    """Begin what the kernel is to be killed in the midst of."""
    dask = moment == "scale" or chance.random() < 0.5
    name = "dask_env" if dask else "plain_env"
    declare = dask_environment(chance.randint(1, 3)) if dask else PLAIN
    notebook.run(declare)
    task = f"%%flyte_task {name}\n{_WORK}"
    if moment == "start":
        notebook.send(task)
        return
    notebook.run(f"%flyte up {name}")
    if moment == "run":
        notebook.send(task)
    elif moment == "scale":
        notebook.send(f"%flyte scale {name} {chance.randint(1, 5)}")
    elif chance.random() < 0.5:
        notebook.send(f"%flyte down {name}")
    else:
        notebook.manager.request_shutdown()
