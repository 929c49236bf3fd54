"""One environment's cluster, as the session sees it: its state, its driver, and what runs there."""

from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from flyte_jupyter.backends.backend import (
    DRIVER,
    Backend,
    ClusterStatus,
    DriverLaunch,
    MemberStatus,
    State,
    member_id,
)
from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.driver.client import DriverClient
from flyte_jupyter.driver.values.transfer import SentBuffers
from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.errors import ClusterError, ClusterLost, DriverLost
from flyte_jupyter.sessions.environments import Environment
from flyte_jupyter.sessions.last_words import last_words
from flyte_jupyter.sessions.scaling import scalable_role
from flyte_jupyter.sessions.surroundings import Surroundings

_numbers = itertools.count(1)


Places: TypeAlias = contextlib.AbstractAsyncContextManager[None]


def places_for(capacity: int | None) -> Places:
    """Return what lets so many in at once, or any number for None."""
    return contextlib.nullcontext() if capacity is None else asyncio.Semaphore(capacity)


class Cluster:
    """The cluster of one environment, over all the times that it is started.

    Parameters
    ----------
    environment
        Whose cluster.
    backend
        Where it lives.
    config
        The session's settings.
    """

    def __init__(self, environment: Environment, backend: Backend, config: FlyteJupyter) -> None:
        self.environment = environment
        self.name = environment.name
        self.id = f"{environment.name}#{next(_numbers)}"
        self.state: State = "declared"
        self.reason = ""
        self.status: ClusterStatus | None = None
        self.spec: ClusterSpec | None = None
        self.started = 0.0
        self.ready_after = 0.0
        self.sent = SentBuffers(config.kept_inputs)
        self.turn = asyncio.Lock()
        self._places: tuple[int | None, Places] = (None, contextlib.nullcontext())
        self.known_cells: set[str] = set()
        self.surroundings = Surroundings()
        self.on_dead: Callable[[Cluster], None] = lambda _: None
        self._backend = backend
        self._config = config
        self._client: DriverClient | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._generation = -1
        self._changed = asyncio.Event()
        self._users = 0
        self._lingering: asyncio.TimerHandle | None = None

    # -- life -------------------------------------------------------------------------------

    async def start(self, spec: ClusterSpec, secrets: Mapping[str, str | None], key: str) -> None:
        """Begin to start, unless it runs; `ready` waits for the end of that.

        Parameters
        ----------
        spec
            What to start, and what is compared with later declarations.
        secrets
            Environment variables of every process that are passed on and not kept; None for those
            that are not to be set.
        key
            The key that signs the driver's messages.
        """
        if self.running:
            return
        self.spec, self.state, self.reason = spec, "starting", ""
        self.started, self.ready_after, self._generation = time.monotonic(), 0.0, -1
        self.surroundings = Surroundings([*spec.env, *secrets])
        settings = {
            "path": self.surroundings.path,
            "output_limit": self._config.output_limit,
            "output_rate": self._config.output_rate,
            "local_roots": [os.getcwd(), *(p for p in sys.path if p)],  # noqa: PTH109
        }
        launch = DriverLaunch(key, settings, os.getcwd(), tuple(sys.path))  # noqa: PTH109
        try:
            env = {**spec.env, **secrets}
            complete = replace(
                spec, env={k: value for k, value in env.items() if value is not None}
            )
            await self._backend.create(self.id, complete, launch)
        except BaseException:
            self.state = "stopped"
            self._wake()
            raise

    def take(self, status: ClusterStatus) -> None:
        """Learn of a change; called by the backend's listener on the session's loop."""
        self.status = status
        state = status["state"]
        if state == "ready" and not self.ready_after:
            self.ready_after = time.monotonic() - self.started
        if state == "failed" and self.state != "failed":
            self._fail(status)
        elif self.state != "failed":
            self.state = state
        self._watch_driver()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _fail(self, status: ClusterStatus) -> None:
        """Note why, with the last lines of what the culprit wrote, while its log is there."""
        self.state, self.reason = "failed", status["reason"]
        words = self.last_words(status["reason"].partition(" ")[0])
        if words:
            self.reason += f"\n{words}"
        self._lose(self._failure())
        self.on_dead(self)

    def _failure(self) -> ClusterError:
        kind, what = (
            (ClusterLost, "was lost") if self.ready_after else (ClusterError, "did not start")
        )
        return kind(f"the cluster of {self.name} {what}", seen=self.reason, fix=_AGAIN)

    def last_words(self, member: str) -> str:
        """Return the last lines of a member's log, or of the zygote's if it wrote none."""
        for log in (f"{member}.log", "zygote.log"):
            text = self._backend.log(self.id, log)
            lines = last_words(member, self._generation if member == DRIVER else 0, text)
            if lines:
                return "\n".join(f"  {log}: {line}" for line in lines)
        return ""

    def _watch_driver(self) -> None:
        driver = self.member(DRIVER)
        if driver is None or self._client is None:
            return
        if driver["generation"] != self._generation or driver["state"] == "exited":
            words = self.last_words(DRIVER)
            how = driver["exit"] or "it was restarted"
            self._lose(
                DriverLost(
                    f"the driver of {self.name} ended",
                    seen=f"{how}\n{words}" if words else how,
                    fix="Another one is there already; refs and names of the old one are gone.",
                )
            )

    def _lose(self, error: Exception) -> None:
        client, self._client = self._client, None
        self.sent.reset()
        self.known_cells.clear()
        if client is not None:
            client.lose(error)
            client.close()

    def has(self, client: DriverClient) -> bool:
        """Whether that is the client of the present driver."""
        return client is self._client

    async def ready(self) -> None:
        """Wait until tasks can be run.

        Raises
        ------
        ClusterError
            It did not start, or not in time; nothing of it is left then.
        """
        limit = self._config.start_timeout
        # A driver that is replaced in a cluster of long ago has all that time again.
        begun = time.monotonic() if self.ready_after else self.started
        try:
            async with asyncio.timeout_at(_on_loop_clock(begun) + limit):
                while not self._usable():
                    if self.state in ("failed", "stopping", "stopped", "declared"):
                        raise self._not_started()
                    await self._changed.wait()
        except TimeoutError:
            late = [m for m in self.members() if m["state"] != "ready"]
            names = ", ".join(_id(m) for m in late)
            words = self.last_words(_id(late[0])) if late else ""
            await self.stop()
            raise ClusterError(
                f"the cluster of {self.name} did not start within {limit:g} s",
                seen=f"not ready: {names}" + (f"\n{words}" if words else ""),
                fix="Give it longer with %config FlyteJupyter.start_timeout = 120",
            ) from None

    def _usable(self) -> bool:
        driver = self.member(DRIVER)
        return self.state == "ready" and driver is not None and driver["state"] == "ready"

    def _not_started(self) -> ClusterError:
        if self.state == "failed":
            return self._failure()
        return ClusterError(f"the cluster of {self.name} was taken down", fix=_AGAIN)

    async def client(self) -> DriverClient:
        """Return a connection to the present driver, which all runs share."""
        address = self._backend.address(self.id)
        if self._client is None:
            self._client = DriverClient(address.connection)
            self._generation = address.generation
            self._connecting = asyncio.ensure_future(self._connect(self._client))
        if self._connecting is not None:
            await asyncio.shield(self._connecting)  # a run that is stopped leaves it to the others
        if self._client is None:
            raise DriverLost(f"the driver of {self.name} ended", fix="Run the cell again.")
        return self._client

    async def _connect(self, client: DriverClient) -> None:
        try:
            await client.connect()
        except BaseException:
            if self._client is client:
                self._client = None
            client.close()
            raise
        finally:
            if self._client is client:
                self._connecting = None

    async def restart_driver(self) -> None:
        """Replace the driver and return when the old one is gone; the rest of the cluster stays."""
        before = self.member(DRIVER)
        await self._backend.restart_driver(self.id)
        while before and self.running and (now := self.member(DRIVER)):
            if now["generation"] != before["generation"]:
                return
            await self._changed.wait()

    async def scale(self, replicas: int, group: str = "") -> str:
        """Change the number of members of a scalable role, and return its name.

        Parameters
        ----------
        replicas
            How many there shall be.
        group
            Name of the role; not needed if the engine has but one that can be scaled.

        Raises
        ------
        ClusterError
            The engine has none, or several and none of that name, its environment declares another
            range, or there is no cluster.
        """
        if not self.running:
            raise ClusterError(f"{self.name} cannot be scaled", seen=f"its cluster is {self.state}")
        role = scalable_role(self.name, self.spec, group, replicas)
        await self._backend.scale(self.id, role.name, replicas)
        return role.name

    async def settled(self, role: str, replicas: int) -> None:
        """Wait until exactly so many members of a role are ready."""
        while self.running:
            members = [m for m in self.members() if m["role"] == role]
            if len(members) == replicas and all(m["state"] == "ready" for m in members):
                return
            await self._changed.wait()

    @property
    def places(self) -> Places:
        """What a run is in while it runs: as many at once as the environment lets it have now."""
        capacity = self.environment.capacity
        if capacity != self._places[0]:
            self._places = capacity, places_for(capacity)
        return self._places[1]

    @property
    def used(self) -> bool:
        """Whether a run is under way on it."""
        return self._users > 0

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the cluster for a run; afterwards it may be one that goes by itself."""
        if self._lingering:
            self._lingering.cancel()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self.spec and self.spec.linger is not None:
                loop = asyncio.get_running_loop()
                self._lingering = loop.call_later(self.spec.linger, self._leave)

    def _leave(self) -> None:
        if self.running and not self._users:
            self.state = "stopping"  # a run that begins now starts another
            self._leaving = asyncio.ensure_future(self.stop())

    async def stop(self) -> None:
        """Take the cluster down and wait until nothing of it is left."""
        if self.state in ("declared", "stopped"):
            return
        if self.state != "failed":
            self.state = "stopping"
        self._lose(ClusterError(f"the cluster of {self.name} was taken down"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._backend.delete(self.id), self._config.stop_timeout)
        if self.state != "failed":
            self.state = "stopped"
        self._wake()

    @property
    def running(self) -> bool:
        """Whether it starts or is ready."""
        return self.state in ("starting", "ready")

    # -- what is seen -----------------------------------------------------------------------

    @property
    def driver(self) -> str:
        """Identity of the present driver; empty if there is none."""
        member, folder = self.member(DRIVER), self.folder
        if member is None or folder is None or not self.running:
            return ""
        return f"{folder.name}.{member['generation']}"

    @property
    def folder(self) -> Path | None:
        """The cluster's folder on this machine."""
        return self._backend.folder(self.id)

    @property
    def links(self) -> Mapping[str, str]:
        """Web pages of the cluster."""
        facts = self.status["facts"] if self.status and self.state == "ready" else {}
        return self.environment.engine.links(facts) if facts else {}

    def members(self) -> list[MemberStatus]:
        """Return the cluster's processes."""
        return self.status["members"] if self.status else []

    def member(self, role: str) -> MemberStatus | None:
        """Return the first process of a role."""
        return next((m for m in self.members() if m["role"] == role), None)

    def summary(self) -> str:
        """Say in a few words what there is: ``4 workers``, ``2 of 4 workers``."""
        counts: dict[str, list[bool]] = {}
        # What there is one of goes without saying: without it there is no cluster.
        roles = self.spec.roles if self.spec else ()
        single = {DRIVER, *(role.name for role in roles if role.vital)}
        for member in self.members():
            if member["role"] not in single and member["state"] != "retiring":
                counts.setdefault(member["role"], []).append(member["state"] == "ready")
        parts = []
        for role, ready in counts.items():
            plural = role if len(ready) == 1 or role.endswith("s") else f"{role}s"
            short = f"{len(ready)}" if all(ready) else f"{sum(ready)} of {len(ready)}"
            parts.append(f"{short} {plural}")
        return ", ".join(parts) or "a driver"

    def __repr__(self) -> str:
        engine = self.environment.engine.name
        return f"<Cluster {self.name}: {engine}, {self.state}, {self.summary()}>"

    def _repr_html_(self) -> str:
        engine = self.environment.engine.name
        about = f"{self.state}, {html.escape(self.summary())}"
        return f"<b>{html.escape(self.name)}</b> ({engine}): {about}"


_AGAIN = "The next cell in this environment starts it anew."


def _id(member: MemberStatus) -> str:
    return member_id(member["role"], member["index"])


def _on_loop_clock(moment: float) -> float:
    """Convert from `time.monotonic`, which the loop's clock need not be."""
    return asyncio.get_running_loop().time() - (time.monotonic() - moment)
