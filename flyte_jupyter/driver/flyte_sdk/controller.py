"""Tasks that a task calls: the notebook is asked to run them, for it knows all clusters.

The SDK asks a controller to run each. This one sends the call by the driver's output channel; what
it returned comes back by the control channel, which is heard whatever the main thread does. The
values cross between the two drivers through shared memory, and the notebook never looks at them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle
from flyte._internal.controllers._local_controller import LocalController

from flyte_jupyter.driver import wire
from flyte_jupyter.driver.flyte_sdk import traces
from flyte_jupyter.driver.flyte_sdk.connector_tasks import connector_for, is_connector_task
from flyte_jupyter.driver.flyte_sdk.context import current_run, current_task_context
from flyte_jupyter.driver.flyte_sdk.overrides import not_honoured
from flyte_jupyter.driver.functions import RESULT
from flyte_jupyter.driver.replies import exception_of
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.wire import TaskReply
from flyte_jupyter.errors import RemoteError

if TYPE_CHECKING:
    from flyte_jupyter.driver.kernel import DriverKernel
    from flyte_jupyter.driver.values.transfer import Parcel


class _Pending(concurrent.futures.Future[Any]):
    """What a call is going to return. Whoever cancels it, and however, stops the call."""

    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__()
        self._stop = stop

    def cancel(self) -> bool:
        """Stop the call, unless it has returned."""
        cancelled = super().cancel()
        if cancelled:
            self._stop()
        return cancelled


class _Call(NamedTuple):
    run: str
    pending: _Pending
    parcel: Parcel


class NotebookController(LocalController):
    """Has the notebook run nested tasks.

    Conditions stay what they are in the SDK's own local controller.

    Parameters
    ----------
    kernel
        The driver.
    """

    def __init__(self, kernel: DriverKernel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kernel = kernel
        self._lock = threading.Lock()
        self._calls: dict[str, _Call] = {}

    async def submit(self, _task: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a task, and give its value."""
        return await asyncio.wrap_future(self.submit_sync(_task, *args, **kwargs))

    def submit_sync(self, _task: Any, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Begin to run a task."""
        kernel, name, run = self._kernel, secrets.token_hex(8), current_run()
        context = current_task_context()
        group = context.group_data.name if context.group_data else ""
        about = cloudpickle.dumps({**_about(_task), "group": group})
        values = {"task": _task, "args": args, "kwargs": kwargs}
        if is_connector_task(_task):
            values["connector"] = connector_for(_task)
        if context.custom_context:
            values["context"] = dict(context.custom_context)
        parcel = transfer.pack(values, folder=kernel.folder, files=True)
        pending = _Pending(lambda: self._say(run, {"cancel": name}))
        with self._lock:
            self._calls[name] = _Call(run, pending, parcel)
        self._say(run, {"call": name, "inputs": parcel.header}, [about, *parcel.frames])
        return pending

    async def get_action_outputs(
        self, _interface: Any, _func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, bool]:
        """Return what is known of a traced step: its output, if an attempt before has it."""
        info, known = await super().get_action_outputs(_interface, _func, *args, **kwargs)
        traces.replay(info, _func)
        return info, known

    async def record_trace(self, info: Any) -> None:
        """Keep what a traced step returned, for the attempts that follow."""
        await super().record_trace(info)
        traces.keep(info)

    def _say(self, run: str, content: wire.NestedCall, buffers: Sequence[Any] = ()) -> None:
        kernel: Any = self._kernel
        content["run"] = run
        kernel.session.send(
            kernel.iopub_socket, wire.CALL, content, kernel.shell.parent_header, buffers=buffers
        )

    def take_return(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Take what a call returned; on the control thread."""
        del stream, ident
        content = parent["content"]
        with self._lock:
            call = self._calls.pop(content["call"], None)
        if call is None:
            return
        call.parcel.close()
        if call.pending.set_running_or_notify_cancel():
            try:
                value = _value(content["reply"], parent["buffers"])
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                call.pending.set_exception(error)
            else:
                call.pending.set_result(value)
        if (content["reply"].get("outputs") or {}).get("segments"):
            self._say(call.run, {"received": content["call"]})


def _value(reply: TaskReply, buffers: list[Any]) -> Any:
    """Return a value, or raise what the task raised.

    An interrupt or an exit of that task is none of this one's, whose loop it would end.
    """
    if reply["status"] == "ok":
        return transfer.unpack(reply["outputs"], buffers, keep_classes=True)[RESULT]
    error = exception_of(reply, buffers)
    if isinstance(error, Exception):
        raise error
    raise RemoteError(f"{reply['ename']}: {reply['evalue']}" if reply["evalue"] else reply["ename"])


def _about(task: Any) -> dict[str, Any]:
    """Return what the notebook has to know of a task to place it."""
    fields = ("resources", "env_vars", "secrets")
    return {
        "environment": {
            "name": task.parent_env_name,
            "plugin_config": getattr(task, "plugin_config", None),
            **{field: getattr(task, field) for field in fields},
        },
        "name": task.short_name,
        "timeout": task.timeout,
        "retries": task.retries,
        "cache": task.cache,
        "not_honoured": not_honoured(task),
    }
