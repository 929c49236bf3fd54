"""What is used of the SDK for connectors, and what becomes of what they say."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import flyte
import flyte.io
import pytest
from flyte.connectors import (
    AsyncConnector,
    AsyncConnectorExecutorMixin,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
)
from flyte.extend import TaskTemplate
from flyte.models import NativeInterface
from flyteidl2.core.execution_pb2 import TaskExecution

from flyte_jupyter.driver.connectors import outputs
from flyte_jupyter.driver.connectors.job import Job
from flyte_jupyter.driver.flyte_sdk import connector_tasks as sdk
from flyte_jupyter.errors import ConnectorError, JobFailed
from flyte_jupyter.sessions import connectors, templates


class Task(AsyncConnectorExecutorMixin, TaskTemplate):
    def custom_config(self, sctx):
        return {"a": 1, "password": "hush", "nested": [{"api_key": "hush"}], "secrets": {"t": "T"}}


def task(inputs=None, outputs=None, **fields) -> Task:
    interface = NativeInterface(inputs=inputs or {}, outputs=outputs or {})
    more = {"task_type": "of-tests", "parent_env_name": "e", **fields}
    return Task(name="t", interface=interface, **more)


# -- the SDK ------------------------------------------------------------------------------------


def test_a_connectors_task_is_told_from_others():
    env = flyte.TaskEnvironment(name="e")

    @env.task
    def plain() -> int:
        return 1

    assert sdk.is_connector_task(task())
    assert not sdk.is_connector_task(plain)
    assert sdk.is_function(plain)
    assert not sdk.is_function(task())


def test_bare_types_become_what_the_sdk_expects():
    bare = sdk.with_typed_inputs(task({"x": int, "y": (str, "z")}))
    assert bare.interface.inputs == {"x": (int, inspect.Parameter.empty), "y": (str, "z")}
    assert bare.native_interface.required_inputs() == ["x"]


def test_a_template_has_what_a_connector_reads():
    template = sdk.template_of(sdk.with_typed_inputs(task({"x": int}, {"y": str})), "/tmp")
    assert template.type == "of-tests"
    assert [each.key for each in template.interface.inputs.variables] == ["x"]
    assert [each.key for each in template.interface.outputs.variables] == ["y"]
    assert sdk.secrets_of(template) == {"t": "T"}


@dataclass
class Meta(ResourceMeta):
    name: str


class Connector(AsyncConnector):
    name = "of tests"
    task_type_name = "of-tests"
    metadata_type = Meta

    def __init__(self, *answers) -> None:
        self.answers, self.deleted = list(answers), 0

    async def create(self, task_template, inputs=None, **kwargs):
        return Meta("job")

    async def get(self, resource_meta, **kwargs):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def delete(self, resource_meta, **kwargs):
        self.deleted += 1


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(ConnectorRegistry, "_REGISTRY", {})
    monkeypatch.setattr(ConnectorRegistry, "_METADATA", {})


def test_registering_again_replaces(registry):
    first, second = Connector(), Connector()
    sdk.register([first])
    sdk.register([second])
    assert sdk.registered() == [second]
    assert sdk.connector_for(task()) is second


def test_a_task_without_a_connector_has_none(registry):
    assert sdk.connector_for(task()) is None


# -- classes of the notebook --------------------------------------------------------------------


def test_a_class_of_the_notebook_is_found_as_it_is_now(registry):
    def define(module: str) -> type:
        body = dict(vars(Connector))
        body.pop("__dict__", None)
        body.pop("__weakref__", None)
        return type("Mine", (AsyncConnector,), {**body, "__module__": module})

    before, now = define("__main__"), define("__main__")
    assert before is not now
    (found,) = connectors.known({"Mine": now}, lambda name: False)
    assert type(found.connector) is now
    assert found.own
    assert connectors.travelling({"Mine": now}, lambda name: False)
    assert not connectors.travelling({"Mine": 1}, lambda name: False)


def test_what_is_registered_and_installed_does_not_travel(registry):
    sdk.register([Connector()])
    (found,) = connectors.known({"x": 1}, lambda name: False)
    assert not found.own
    assert connectors.travelling({"x": 1}, lambda name: False) == b""
    (own,) = connectors.known({"x": 1}, lambda name: name == __name__)
    assert own.own


# -- outputs ------------------------------------------------------------------------------------


async def test_outputs_are_taken_by_name_and_in_the_declared_order():
    both = task(outputs={"a": int, "b": str})
    assert await outputs.native(both, {"b": "x", "a": 1, "c": 0}) == (1, "x")
    assert await outputs.native(task(outputs={"a": int}), {"a": 1}) == 1
    assert await outputs.native(task(), {"a": 1}) is None


@pytest.mark.parametrize("kind", [flyte.io.File, flyte.io.File[str], flyte.io.Dir])
async def test_a_path_becomes_a_file_or_a_folder(kind):
    value = await outputs.native(task(outputs={"a": kind}), {"a": "s3://x/y"})
    assert isinstance(value, flyte.io.Dir if kind is flyte.io.Dir else flyte.io.File)
    assert value.path == "s3://x/y"


async def test_an_address_becomes_a_data_frame():
    value = await outputs.native(task(outputs={"a": flyte.io.DataFrame}), {"a": "s3://x"})
    assert value.uri == "s3://x"


@pytest.mark.parametrize(("given", "said"), [(None, "gave none"), ({"b": 1}, "gave b")])
async def test_an_output_that_is_missing_is_named(given, said):
    with pytest.raises(ConnectorError, match=f"t has no output 'a'.*{said}"):
        await outputs.native(task(outputs={"a": int}), given)


# -- jobs ---------------------------------------------------------------------------------------


class Silent:
    """A view and a keeper that do nothing."""

    def show(self, *args) -> None: ...
    def end(self, *args) -> None: ...
    def start(self) -> None: ...
    def release(self) -> None: ...

    def keep(self, *args):
        return self


def job(connector, monkeypatch) -> Job:
    monkeypatch.setenv("T", "token")
    template = sdk.template_of(sdk.with_typed_inputs(task()), "/tmp")
    return Job(connector, "t", template, Silent(), Silent())


def said(phase, **more) -> Resource:
    return Resource(phase=phase, **more)


async def test_what_has_succeeded_is_not_deleted(monkeypatch):
    connector = Connector(said(TaskExecution.QUEUED), said(TaskExecution.SUCCEEDED))
    assert (await job(connector, monkeypatch).run({}, "")).phase == TaskExecution.SUCCEEDED
    assert connector.deleted == 0


@pytest.mark.parametrize("phase", [TaskExecution.FAILED, TaskExecution.ABORTED])
async def test_what_has_failed_for_good_is_not_deleted(monkeypatch, phase):
    connector = Connector(said(phase, message="why"))
    with pytest.raises(JobFailed, match="why"):
        await job(connector, monkeypatch).run({}, "")
    assert connector.deleted == 0


async def test_what_cannot_be_seen_any_more_is_deleted(monkeypatch):
    connector = Connector(*[OSError("down")] * 3)
    with pytest.raises(ConnectorError, match="'get' of of tests failed: OSError: down"):
        await job(connector, monkeypatch).run({}, "")
    assert connector.deleted == 1


async def test_two_looks_may_fail(monkeypatch):
    wrong = OSError("down")
    done = said(TaskExecution.SUCCEEDED)
    connector = Connector(wrong, wrong, said(TaskExecution.RUNNING), wrong, wrong, done)
    assert await job(connector, monkeypatch).run({}, "") is done


@pytest.mark.parametrize("nonsense", [None, "done", Resource(phase=99)])
async def test_an_answer_that_is_none_is_named(monkeypatch, nonsense):
    with pytest.raises(ConnectorError, match="makes no sense"):
        await job(Connector(*[nonsense] * 3), monkeypatch).run({}, "")


async def test_a_secret_without_a_value_is_named(monkeypatch):
    monkeypatch.delenv("T", raising=False)
    template = sdk.template_of(sdk.with_typed_inputs(task()), "/tmp")
    with pytest.raises(ConnectorError, match="t has no t: the environment variable T is not set"):
        Job(Connector(), "t", template, Silent(), Silent())


# -- templates ----------------------------------------------------------------------------------


def test_a_template_is_shown_without_its_secrets():
    rows = dict(templates.described(task({"x": int}, {"y": str})))
    assert rows["type"] == "of-tests, version 0"
    assert rows["inputs"] == "x: int"
    assert rows["outputs"] == "y: str"
    assert "hush" not in rows["custom"]
    assert '"t": "T"' in rows["custom"]
