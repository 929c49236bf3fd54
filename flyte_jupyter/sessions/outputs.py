"""What a run has returned, taken in: at once, or one value after the other where one of them fails.

A driver holds what it returns until it hears that it has been received. So a value that cannot be
rebuilt in the notebook, whose package only the image has, costs neither the others nor itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from flyte_jupyter.driver.client import DriverClient
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.transfer import UnpackError
from flyte_jupyter.driver.wire import TaskReply
from flyte_jupyter.errors import FlyteJupyterError
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.runs import Run

_ONE = "value"


class Fetcher(Protocol):
    """What a ref needs of the session."""

    def fetch(self, cluster: Cluster, ref: Ref) -> Any:
        """Bring a ref's value here."""


class Ask(Protocol):
    """Has the driver of a run do what needs no code."""

    def __call__(
        self,
        values: dict[str, Any],
        *,
        returns: Sequence[str] = (),
        keeps: Sequence[str] = (),
    ) -> Awaitable[tuple[TaskReply, list[Any]]]:
        """Return these names by value and as refs: of `values`, or of what the run returned."""


class _Home:
    """What a ref knows of where it comes from; `refs.Home` says what it is for."""

    def __init__(self, cluster: Cluster, client: DriverClient, fetcher: Fetcher) -> None:
        self._cluster, self._client, self._fetcher = cluster, client, fetcher

    @property
    def driver(self) -> str:
        return self._cluster.driver

    def fetch(self, ref: Ref) -> Any:
        return self._fetcher.fetch(self._cluster, ref)

    def drop(self, ref: str) -> None:
        self._client.drop(ref)


class Outputs:
    """Takes in what one run has returned.

    Parameters
    ----------
    run, cluster, client
        The run, where it ran, and the connection to the driver that it ran in.
    fetcher
        The session.
    ask
        Asks that driver for more.
    """

    def __init__(
        self, run: Run, cluster: Cluster, client: DriverClient, fetcher: Fetcher, ask: Ask
    ) -> None:
        self._run, self._client, self._ask = run, client, ask
        self._home = _Home(cluster, client, fetcher)
        self._environment = cluster.environment.name

    async def take(self, reply: TaskReply, buffers: list[Any]) -> UnpackError | None:
        """Give the run its outputs, and return why one of them is there as a ref alone.

        Raises
        ------
        SegmentError
            The driver ended before what it returned could be taken.
        """
        run, parcel = self._run, reply["outputs"]
        run.outputs = refs = self._refs(reply)
        problem = None
        try:
            own = buffers[reply.get("before", 0) :]
            values = transfer.unpack(parcel, own, keep_classes=True)
        except UnpackError as error:
            problem = error
            values = {} if run.task.call else await self._one_by_one(parcel["names"])
        finally:
            if parcel["segments"] or (parcel["names"] and not run.task.call):
                self._client.received(run.id)
        run.outputs = {**values, **refs}
        run.payload = reply.get("payload", [])
        return problem

    def _refs(self, reply: TaskReply) -> dict[str, Any]:
        told = reply.get("refs", {})  # none where it could not even be asked for
        return {n: Ref(info, self._home, self._environment) for n, info in told.items()}

    async def _one_by_one(self, names: Sequence[str]) -> dict[str, object]:
        values: dict[str, Any] = {}
        with contextlib.suppress(FlyteJupyterError):  # that the driver has ended is said elsewhere
            kept, _ = await self._ask({}, keeps=names)
            values = self._refs(kept)
            for name, ref in values.items():
                values[name] = await self._fetched(ref)
        return values

    async def _fetched(self, ref: Ref) -> object:
        """Return the value of a ref, or the ref where it cannot be rebuilt."""
        reply, buffers = await self._ask({_ONE: ref}, returns=[_ONE])
        if not reply.get("outputs"):  # it was interrupted
            return ref
        try:
            return transfer.unpack(reply["outputs"], buffers, keep_classes=True).get(_ONE, ref)
        except UnpackError:
            return ref
        finally:
            self._client.received(self._run.id)
