"""The backend contract: where clusters live.

A backend mirrors Flyte's connector contract: `create`, `get`, `delete`, by name, each safe to call
again. What it runs is an engine's description (`ClusterSpec`) plus one driver, which is the job
that the cluster is for. What it tells is a whole `ClusterStatus` each time something changes, never
a difference: whoever missed one has missed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from flyte_jupyter.engines.engine import ClusterSpec, Facts

State: TypeAlias = Literal["declared", "starting", "ready", "stopping", "stopped", "failed"]
DRIVER = "driver"
START_LINE = "--- {}, start {} ---"
"""Divides the lines of a process from those of the one that it replaced, in the log they share."""


class MemberStatus(TypedDict):
    """One process of a cluster, its driver included."""

    role: str
    index: int
    generation: int
    """How often it has been replaced; a driver's refs live for one generation."""
    pid: int
    state: Literal["starting", "ready", "retiring", "exited"]
    """`retiring` members are not wanted any more, and hand over what they hold."""
    exit: str
    """How the process of the generation before ended: ``exit code 3``, ``killed by SIGSEGV``."""
    log: str
    """Name of its log, for `Backend.log`."""


def member_id(role: str, index: int) -> str:
    """Return what a member is called in lists, logs and messages: ``worker-2``."""
    return role if role == DRIVER else f"{role}-{index}"


class ClusterStatus(TypedDict):
    """All there is to know of a cluster, at one moment."""

    state: State
    reason: str
    members: list[MemberStatus]
    facts: Facts


@dataclass(frozen=True)
class DriverLaunch:
    """What a driver needs to know from the session that it belongs to."""

    key: str
    """Key that signs its Jupyter messages, in hexadecimal."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cwd: str = "."
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriverAddress:
    """Where a driver's Jupyter channels are, as a connection file has it."""

    connection: Mapping[str, Any]
    generation: int


Listener: TypeAlias = Callable[[str, ClusterStatus], None]
"""Called on the session's loop with a cluster's name and its new status."""


class Backend(Protocol):
    """A place where clusters live."""

    def prepare(self, spec: ClusterSpec, progress: Callable[[str], None]) -> tuple[str, ...]:
        """Make what clusters need before they can start: the packages of their processes.

        It blocks, for minutes perhaps, and can be interrupted; called on any thread but the loop's.

        Parameters
        ----------
        spec
            What is going to be created.
        progress
            Told in a few words what is being done, if that takes longer than a moment.

        Returns
        -------
        tuple
            What the user should know of it, a line each.

        Raises
        ------
        ImageError
            It cannot be had.
        """

    async def create(self, name: str, spec: ClusterSpec, driver: DriverLaunch) -> None:
        """Begin to start a cluster, unless one of that name is there; news go to the listener.

        Raises
        ------
        ClusterError
            Nothing could be started at all.
        """

    async def get(self, name: str) -> ClusterStatus | None:
        """Return the last known status; None if there is no such cluster."""

    async def scale(self, name: str, role: str, replicas: int) -> None:
        """Ask for another number of members; what changes goes to the listener."""

    async def restart_driver(self, name: str) -> None:
        """End the driver and what it has started, and start another; the cluster stays."""

    async def delete(self, name: str) -> None:
        """Take a cluster down and return when nothing of it is left; no-op if there is none."""

    def dismiss(self, name: str) -> None:
        """Let a cluster that has failed go: its logs have been read."""

    async def close(self) -> None:
        """Take every cluster down, and wait for those that have failed to be gone."""

    def address(self, name: str) -> DriverAddress:
        """Say where the present driver listens."""

    def folder(self, name: str) -> Path | None:
        """Return the cluster's folder, if it is on this machine."""

    def log(self, name: str, log: str, *, last: int = 65536) -> str:
        """Return the end of one log of a cluster, at most `last` bytes of it."""
