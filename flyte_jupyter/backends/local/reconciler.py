"""What an operator decides: which members are missing, which are too many, whether all is lost.

It holds no process and does no I/O: the supervisor tells it what happened and does what it says.
Level-triggered, as Kubernetes operators are: every decision comes from the whole present state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from flyte_jupyter.backends.backend import (
    DRIVER,
    ClusterStatus,
    MemberStatus,
    State,
    member_id,
)
from flyte_jupyter.engines.engine import ClusterSpec, Facts, Role

_START_ATTEMPTS = 3
_CRASHES = 5
_CRASH_WINDOW = 60.0
_REST = 30.0
"""A member that ends `_CRASHES` times within `_CRASH_WINDOW` seconds is started again only after a
rest of so many: it may die of what it is given, and what waits for it must not wait for ever."""


@dataclass
class Record:
    """One wanted process, over all its generations."""

    role: Role
    index: int
    generation: int = 0
    pid: int = 0
    state: Literal["absent", "starting", "ready", "exited", "resting"] = "absent"
    exit: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    crashes: list[float] = field(default_factory=list)
    attempts: int = 0
    leaving: bool = False

    @property
    def id(self) -> str:
        """Name of this very process: ``worker-2``; a replacement has the same."""
        return member_id(self.role.name, self.index)

    @property
    def rested(self) -> float:
        """When it has rested from its last crash, by the monotonic clock."""
        return self.crashes[-1] + _REST

    def status(self) -> MemberStatus:
        """Return what is told of it."""
        states = {"ready": "ready", "starting": "starting", "absent": "starting"}
        state = "retiring" if self.leaving else states.get(self.state, "exited")
        return {
            "role": self.role.name,
            "index": self.index,
            "generation": self.generation,
            "pid": self.pid,
            "state": state,  # type: ignore[typeddict-item]
            "exit": self.exit,
            "log": f"{self.id}.log",
        }


class Reconciler:
    """The state of one cluster and what follows from it.

    Parameters
    ----------
    spec
        What the cluster consists of; the driver is added here.
    driver
        The driver, as one more role.
    """

    def __init__(self, spec: ClusterSpec, driver: Role) -> None:
        self.roles = {role.name: role for role in (*spec.roles, driver)}
        self.wanted = {name: role.replicas for name, role in self.roles.items()}
        self.records: dict[str, Record] = {}
        self.state: State = "starting"
        self.reason = ""
        for role in self.roles.values():
            self._add(role, role.replicas)

    def _add(self, role: Role, count: int) -> None:
        taken = {r.index for r in self.records.values() if r.role.name == role.name}
        index = 0
        while len(taken) < count:
            if index not in taken:
                record = Record(role, index)
                self.records[record.id] = record
                taken.add(index)
            index += 1

    def scale(self, name: str, replicas: int) -> list[Record]:
        """Want another number of members; returns those that have to leave."""
        self.wanted[name] = replicas
        staying = [r for r in self.records.values() if r.role.name == name and not r.leaving]
        surplus = sorted(staying, key=lambda r: r.index)[replicas:]
        for record in surplus:
            record.leaving = record.state in ("starting", "ready")
            if not record.leaving:  # it has no process that could leave
                del self.records[record.id]
        leaving = sum(r.leaving for r in self.records.values() if r.role.name == name)
        self._add(self.roles[name], replicas + leaving)
        self._conclude()
        return [record for record in surplus if record.leaving]

    def missing(self) -> Iterator[Record]:
        """Yield members to start now, each once."""
        for record in list(self.records.values()):
            if record.state == "resting" and record.rested <= time.monotonic():
                record.state = "exited"
            if record.state in ("absent", "exited") and not record.leaving:
                record.generation += 1
                record.attempts += 1
                record.state = "starting"
                yield record

    def started(self, member: str, pid: int) -> None:
        """Note the pid of a member."""
        if record := self.records.get(member):
            record.pid = pid

    def ready(self, member: str, facts: dict[str, Any]) -> None:
        """Note that a member can be used."""
        record = self.records.get(member)
        if record is None or record.state != "starting":
            return
        record.state, record.facts, record.attempts = "ready", facts, 0
        self._conclude()

    def exited(self, member: str, how: str) -> None:
        """Note that a member has ended, and conclude what that means for the cluster."""
        record = self.records.get(member)
        if record is None or self.state in ("stopping", "stopped", "failed"):
            return
        if record.leaving:
            del self.records[member]
            return
        was_starting = record.state == "starting"
        record.state, record.exit, record.facts = "exited", how, {}
        if record.role.vital or (was_starting and record.attempts >= _START_ATTEMPTS):
            self.fail(f"{member} ended: {how}")
        elif not was_starting:
            self._count_crash(record)

    def _count_crash(self, record: Record) -> None:
        now = time.monotonic()
        record.crashes = [t for t in record.crashes if now - t < _CRASH_WINDOW] + [now]
        if record.role.name != DRIVER and len(record.crashes) >= _CRASHES:
            record.state = "resting"

    @property
    def pause(self) -> float | None:
        """Seconds until the first member has rested; None if none rests."""
        ends = [r.rested for r in self.records.values() if r.state == "resting"]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def fail(self, reason: str) -> None:
        """Give the cluster up; the first reason is kept."""
        if self.state != "failed":
            self.state, self.reason = "failed", reason

    def _conclude(self) -> None:
        """Call the cluster ready when nothing that stays is waited for any more."""
        staying = (r for r in self.records.values() if not r.leaving)
        if self.state == "starting" and all(r.state in ("ready", "resting") for r in staying):
            self.state = "ready"

    @property
    def facts(self) -> Facts:
        """What ready members said of themselves, by role and in the order of their index."""
        facts: Facts = {}
        for record in sorted(self.records.values(), key=lambda r: r.index):
            if record.state == "ready" and record.role.name != DRIVER:
                facts.setdefault(record.role.name, []).append(record.facts)
        return facts

    def status(self) -> ClusterStatus:
        """Return the whole state."""
        return {
            "state": self.state,
            "reason": self.reason,
            "members": [record.status() for record in self.records.values()],
            "facts": self.facts,
        }
