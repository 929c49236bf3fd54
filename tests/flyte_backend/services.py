"""The services of a Flyte backend that a run of the SDK asks."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.cluster import payload_pb2
from flyteidl2.cluster.service_connect import ClusterService
from flyteidl2.common import identifier_pb2, phase_pb2
from flyteidl2.core import execution_pb2
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyService
from flyteidl2.logs.dataplane import payload_pb2 as logs_pb2
from flyteidl2.workflow import (
    queue_service_pb2,
    run_definition_pb2,
    run_service_pb2,
    state_service_pb2,
)
from flyteidl2.workflow.queue_service_connect import QueueService
from flyteidl2.workflow.run_service_connect import RunService
from flyteidl2.workflow.state_service_connect import StateService

from tests.flyte_backend.actions import Action
from tests.flyte_backend.store import Store


class Backend(ClusterService, DataProxyService, RunService, QueueService, StateService):
    """All services in one: their methods' names do not clash.

    The log of a task that is called ``late`` is not there when it is first asked for, and that of
    one that is called ``broken`` breaks off. One that is called ``slow`` is not taken before a
    test says so (`Running.asked_for`, `Running.let_in`).

    Parameters
    ----------
    folder
        Where processes of runs have their folders.
    store
        The object store.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.endpoint = ""
        self.actions: dict[tuple[str, str], Action] = {}
        self.queued_for = 0.0
        self._runs, self._uploads = itertools.count(1), itertools.count(1)
        self._news = asyncio.Condition()
        self._closed = asyncio.Event()
        self._tails: Counter[str] = Counter()

    async def close(self) -> None:
        self._closed.set()
        async with self._news:
            self._news.notify_all()
        for action in self.actions.values():
            await action.wait()

    # -- ClusterService -----------------------------------------------------------------------

    async def select_cluster(self, request: Any, ctx: Any) -> Any:
        del request, ctx
        return payload_pb2.SelectClusterResponse()

    # -- DataProxyService ---------------------------------------------------------------------

    async def create_upload_location(self, request: Any, ctx: Any) -> Any:
        del ctx
        root = request.filename_root or str(next(self._uploads))
        path = f"uploads/{root}/{request.filename}"
        return dataproxy_service_pb2.CreateUploadLocationResponse(
            signed_url=self.store.signed(path, "put_object"), native_url=self.store.address(path)
        )

    async def upload_inputs(self, request: Any, ctx: Any) -> Any:
        del ctx
        data = request.inputs.SerializeToString()
        path = f"inputs/{next(self._uploads)}/inputs.pb"
        self.store.write(path, data)
        response = dataproxy_service_pb2.UploadInputsResponse()
        response.offloaded_input_data.uri = self.store.address(path)
        response.offloaded_input_data.inputs_hash = hashlib.sha256(data).hexdigest()
        return response

    async def get_action_data(self, request: Any, ctx: Any) -> Any:
        del ctx
        inputs, outputs = self._action(request.action_id).data()
        return dataproxy_service_pb2.GetActionDataResponse(inputs=inputs, outputs=outputs)

    async def tail_logs(self, request: Any, ctx: Any) -> AsyncIterator[Any]:
        del ctx
        action, told = self._action(request.action_id), 0
        self._tails[action.id.run.name] += 1
        first = self._tails[action.id.run.name] == 1
        if first and "late" in action.spec.short_name:
            raise ConnectError(Code.NOT_FOUND, "there is no log yet")
        async for count in action.changes(lambda: len(action.lines)):
            lines = [logs_pb2.LogLine(message=f"{line}\n") for line in action.lines[told:count]]
            told = count
            logs = dataproxy_service_pb2.TailLogsResponse.Logs(lines=lines)
            yield dataproxy_service_pb2.TailLogsResponse(logs=[logs])
            if first and told and "broken" in action.spec.short_name:
                raise ConnectError(Code.INTERNAL, "the log broke off")
        await self._closed.wait()  # a log plane holds the stream open

    async def create_download_link(self, request: Any, ctx: Any) -> Any:
        del ctx
        action = self._action(request.action_attempt_id.action_id)
        report = f"{action.outputs}/report.html"
        response = dataproxy_service_pb2.CreateDownloadLinkResponse()
        if self.store.read(report) is not None:
            response.pre_signed_urls.signed_url.append(self.store.signed(report, "get_object"))
        return response

    # -- RunService ---------------------------------------------------------------------------

    async def create_run(self, request: Any, ctx: Any) -> Any:
        del ctx
        run = self._run_id(request)
        if "slow" in request.task_spec.short_name:
            (self.folder / f"{run.name}.asked").touch()
            while not (self.folder / f"{run.name}.let_in").exists():
                await asyncio.sleep(0.02)
        if any(name == run.name for name, _ in self.actions):
            raise ConnectError(Code.ALREADY_EXISTS, f"there is a run {run.name}")
        envs = {pair.key: pair.value for pair in request.run_spec.envs.values}
        action = Action(
            id=identifier_pb2.ActionIdentifier(run=run, name="a0"),
            spec=request.task_spec,
            inputs=request.offloaded_input_data.uri,
            folder=self.folder / run.name,
            store=self.store,
            envs=envs,
        )
        await self._start(action)
        created = run_definition_pb2.Run(action=action.brief())
        return run_service_pb2.CreateRunResponse(run=created)

    def _run_id(self, request: Any) -> identifier_pb2.RunIdentifier:
        if request.HasField("run_id"):
            return request.run_id
        project = request.project_id
        return identifier_pb2.RunIdentifier(
            org=project.organization,
            project=project.name,
            domain=project.domain,
            name=f"r{next(self._runs)}",
        )

    async def get_action_details(self, request: Any, ctx: Any) -> Any:
        del ctx
        details = self._action(request.action_id).details()
        return run_service_pb2.GetActionDetailsResponse(details=details)

    async def get_run_details(self, request: Any, ctx: Any) -> Any:
        del ctx
        first = identifier_pb2.ActionIdentifier(run=request.run_id, name="a0")
        details = run_definition_pb2.RunDetails(action=self._action(first).details())
        return run_service_pb2.GetRunDetailsResponse(details=details)

    async def watch_action_details(self, request: Any, ctx: Any) -> AsyncIterator[Any]:
        del ctx
        async for details in self._changes(self._action(request.action_id)):
            yield run_service_pb2.WatchActionDetailsResponse(details=details)

    async def _changes(self, action: Action) -> AsyncIterator[Any]:
        async for details in action.changes(action.details):
            yield details

    async def abort_run(self, request: Any, ctx: Any) -> Any:
        del ctx
        for (run, _), action in list(self.actions.items()):
            if run == request.run_id.name:
                await action.abort(request.reason)
        return run_service_pb2.AbortRunResponse()

    async def list_actions(self, request: Any, ctx: Any) -> Any:
        del ctx
        found = [a.brief() for (run, _), a in self.actions.items() if run == request.run_id.name]
        return run_service_pb2.ListActionsResponse(actions=found)

    # -- QueueService and StateService: tasks that call tasks -----------------------------------

    async def enqueue_action(self, request: Any, ctx: Any) -> Any:
        del ctx
        first = self._action(identifier_pb2.ActionIdentifier(run=request.action_id.run, name="a0"))
        action = Action(
            id=request.action_id,
            spec=request.task.spec,
            inputs=request.input_uri,
            folder=first.folder,
            store=self.store,
            envs=first.envs,
            parent=request.parent_action_name,
        )
        await self._start(action)
        return queue_service_pb2.EnqueueActionResponse()

    async def abort_queued_action(self, request: Any, ctx: Any) -> Any:
        del ctx
        await self._action(request.action_id).abort(request.reason)
        return queue_service_pb2.AbortQueuedActionResponse()

    async def watch(self, request: Any, ctx: Any) -> AsyncIterator[Any]:
        del ctx
        parent, known = request.parent_action_id, {}
        yield state_service_pb2.WatchResponse(
            control_message=state_service_pb2.ControlMessage(sentinel=True)
        )
        while not self._closed.is_set():
            for (run, name), action in list(self.actions.items()):
                mine = run == parent.run.name and action.parent == parent.name
                if mine and known.get(name) != action.phase:
                    known[name] = action.phase
                    yield state_service_pb2.WatchResponse(action_update=_update(action))
            async with self._news:
                await self._news.wait()

    # -- all together ---------------------------------------------------------------------------

    async def _start(self, action: Action) -> None:
        self.actions[action.id.run.name, action.name] = action
        action.folder.mkdir(parents=True, exist_ok=True)
        (action.folder / f"{action.name}.pb").write_bytes(action.spec.SerializeToString())
        action.start(self.endpoint)
        task = asyncio.get_running_loop().create_task(self._spread(action))
        action.spreading = task  # type: ignore[attr-defined]

    async def _spread(self, action: Action) -> None:
        """Wake whoever watches the children of an action's parent."""
        async for _ in action.changes(lambda: action.phase):
            async with self._news:
                self._news.notify_all()

    def _action(self, id_: identifier_pb2.ActionIdentifier) -> Action:
        try:
            return self.actions[id_.run.name, id_.name]
        except KeyError:
            raise ConnectError(Code.NOT_FOUND, f"no action {id_.run.name}/{id_.name}") from None


def _update(action: Action) -> state_service_pb2.ActionUpdate:
    update = state_service_pb2.ActionUpdate(action_id=action.id, phase=action.phase)
    if action.phase == phase_pb2.ACTION_PHASE_SUCCEEDED:
        update.output_uri = action.store.address(action.outputs)
    if action.error:
        code, message = action.error
        kind = execution_pb2.ExecutionError.USER
        update.error.CopyFrom(execution_pb2.ExecutionError(code=code, message=message, kind=kind))
    return update
