"""What a connector's task costs beyond the service that does its work."""

from __future__ import annotations

from statistics import median

from tests.bench.notebook import TIMED, with_extension
from tests.bench.rows import Row, duration
from tests.training_service import TrainingService

_DECLARE = """\
import httpx, flyte, flyte_jupyter
from dataclasses import dataclass
from flyte.connectors import AsyncConnector, AsyncConnectorExecutorMixin, ConnectorRegistry
from flyte.connectors import Resource, ResourceMeta
from flyte.extend import TaskTemplate
from flyte.models import NativeInterface
from flyteidl2.core.execution_pb2 import TaskExecution

async def launch():
    async with httpx.AsyncClient() as client:
        return (await client.post(ENDPOINT, json={})).json()["job_id"]

async def look(job):
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{ENDPOINT}/{job}")).json()["results"]

@dataclass
class Meta(ResourceMeta):
    job: str

class Connector(AsyncConnector):
    name = "bench"
    task_type_name = "bench"
    metadata_type = Meta

    async def create(self, task_template, inputs, **kwargs):
        return Meta(await launch())

    async def get(self, resource_meta, **kwargs):
        results = await look(resource_meta.job)
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"results": results})

    async def delete(self, resource_meta, **kwargs):
        pass

class Task(AsyncConnectorExecutorMixin, TaskTemplate):
    pass

job = Task(
    name="job", interface=NativeInterface.from_types({}, {"results": str}), task_type="bench"
)
job_env = flyte.TaskEnvironment.from_task("job_env", job)
ConnectorRegistry.register(Connector())

async def by_itself():
    await look(await launch())
"""


def connectors(quick: bool) -> list[Row]:
    """Time a job that is done at once, beside the SDK's local executor and the bare service."""
    rounds = 5 if quick else 30
    service = TrainingService()
    try:
        with with_extension() as notebook:
            notebook.run(f"ENDPOINT = {service.endpoint!r}\n{_DECLARE}\n{TIMED}")
            notebook.run("flyte.init()")
            ours = "await timed(lambda: flyte_jupyter.run(job), {})"
            theirs = "await timed(lambda: flyte.run.aio(job), {})"
            notebook.run(ours.format(1))
            here = notebook.run(ours.format(rounds)).value
            bare = notebook.run(f"await timed(by_itself, {rounds})").value
            peer = notebook.run(theirs.format(2)).value
    finally:
        service.close()
    beyond = median(here) - median(bare)
    return [
        Row(
            "connector's job that is done at once, beyond the service's own time",
            duration(beyond),
            f"{duration(median(peer) - median(bare))} (flyte.run)",
            beyond / (median(peer) - median(bare)),
            "<= 0.2 s",
            beyond <= 0.2,
        )
    ]
