"""Workers that leave: what runs on them ends there, and what they hold goes to those that stay."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator

import psutil

from flyte_jupyter.engines.engine import Member

SETTINGS = {
    "spark.decommission.enabled": "true",
    "spark.storage.decommission.enabled": "true",
    "spark.storage.decommission.rddBlocks.enabled": "true",
    # Between two looks for blocks that are left; half a minute, if nothing is said.
    "spark.storage.decommission.replicationReattemptInterval": "1s",
}
"""Of every JVM: Spark does none of it unless it is told to."""

_EXECUTOR = "CoarseGrainedExecutorBackend"
_LOOK = 0.2
_AGAIN = 2.0
"""Seconds after which an executor is told itself, and told again: one that still starts is missed
by what its worker says, for the driver does not know it yet."""


def retire(member: Member) -> None:
    """Have workers take nothing more, and wait until the last of their executors has ended.

    Spark calls that decommissioning, and has a signal for it where the system has that: without it
    the workers end at once, and Spark runs anew what is lost with them. It ends early if it must:
    the backend waits for five minutes at most.
    """
    power_fails = getattr(signal, "SIGPWR", None)
    if power_fails is None:
        return
    member.wait_for("worker")
    names = set(member.args["members"])
    workers = [fact["jvm"] for fact in member.facts("worker") if fact["name"] in names]
    _tell(workers, power_fails)
    told = time.monotonic()
    while executors := list(_executors(frozenset(workers))):
        time.sleep(_LOOK)
        if time.monotonic() - told > _AGAIN:
            _tell(executors, power_fails)
            told = time.monotonic()


def _tell(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _executors(workers: frozenset[int]) -> Iterator[int]:
    """Yield the executors of some workers, by their parents: they go with them."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.ppid() in workers and any(_EXECUTOR in word for word in process.cmdline()):
                yield process.pid
