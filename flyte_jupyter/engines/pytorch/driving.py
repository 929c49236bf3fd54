"""What the driver of a PyTorch cluster does: it has cells run in ranks, and runs none itself."""

from __future__ import annotations

from typing import Any

from flyte_jupyter.driver.job import Job, Outcome
from flyte_jupyter.engines.pytorch.asking import Desk
from flyte_jupyter.engines.pytorch.group import Group

_desks: list[Desk] = []


def connect(member: Any) -> None:
    """Begin to listen for ranks."""
    if not _desks:
        _desks.append(Desk(member))


async def run(job: Job) -> Outcome:
    """Run a task's cell in all ranks of the environment.

    Raises
    ------
    ClusterError
        Ranks or nodes have died, and what restarts there were did not help.
    TaskTimeout
        It took longer than `active_deadline_seconds`.
    UsageError
        ``--ranks`` names a rank that there is not.
    """
    (desk,) = _desks
    desk.cells.update(job.request["cells"])
    if desk.leaving is not None:
        await desk.leaving
    group = Group(job, desk)
    with group.listening(), job.on_interrupt(group.interrupt):
        return await group.run()
