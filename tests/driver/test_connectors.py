"""What is used of the SDK for connectors, and what becomes of what they say."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
from dataclasses import dataclass
from typing import Optional

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

from flyte_jupyter.driver.connectors import keeper, outputs
from flyte_jupyter.driver.connectors.job import Job
from flyte_jupyter.driver.connectors.loop import run_beside
from flyte_jupyter.driver.connectors.view import JobView
from flyte_jupyter.driver.flyte_sdk import connector_tasks as sdk
from flyte_jupyter.errors import ConnectorError, JobFailed, ServiceError
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


def test_inputs_that_a_call_leaves_out_have_their_defaults():
    called = sdk.with_typed_inputs(task({"epochs": (int, 3), "uri": str, "tags": (list, None)}))
    assert sdk.inputs_of(called, ("s3://x",), {}) == {"epochs": "s3://x", "tags": None}
    assert sdk.inputs_of(called, (), {"uri": "s3://x"}) == {
        "epochs": 3, "tags": None, "uri": "s3://x"}  # fmt: skip
    remote = task({"epochs": (int, NativeInterface.has_default)})
    assert sdk.inputs_of(remote, (), {}) == {}


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


class SlowToLaunch(Connector):
    """Says when a launch has begun, and ends it when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def create(self, task_template, inputs=None, **kwargs):
        self.begun.set()
        await self.go_on.wait()
        return Meta("job")


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
    assert found.connector is now
    assert found.own
    assert connectors.travelling({"Mine": now}, lambda name: False)
    assert not connectors.travelling({"Mine": 1}, lambda name: False)


def test_one_that_was_made_by_hand_is_taken_and_not_its_class(registry, monkeypatch):
    made = Connector("made by hand")
    monkeypatch.setattr(Connector, "__module__", "__main__")
    sdk.register([made])
    (found,) = connectors.known({"Connector": Connector}, lambda name: False)
    assert found.connector is made


class Needy(Connector):
    def __init__(self, url) -> None:
        raise AssertionError("it was made without what it needs")


class Unpicklable(Connector):
    def __init__(self) -> None:
        import threading

        self.lock = threading.Lock()


@pytest.mark.parametrize(("kind", "said"), [(Needy, "url"), (Unpicklable, "lock")])
def test_one_that_cannot_travel_is_an_error_of_its_tasks_alone(registry, monkeypatch, kind, said):
    monkeypatch.setattr(kind, "__module__", "__main__")
    data = connectors.travelling({kind.__name__: kind}, lambda name: False)
    sdk.learn(pickle.loads(data))
    try:
        with pytest.raises(ConnectorError, match=f"type 'of-tests' cannot be used.*{said}"):
            sdk.connector_for(task())
    finally:
        sdk.learn([])


def test_a_module_that_registers_its_connector_can_be_run_again(registry):
    sdk.let_register_again()
    ConnectorRegistry.register(Connector())
    ConnectorRegistry.register(Connector())
    sdk.let_register_again()
    assert len(sdk.registered()) == 1


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


@pytest.mark.parametrize(
    ("kind", "given", "paths"),
    [
        (list[flyte.io.File], ["a", "b"], ["a", "b"]),
        (dict[str, flyte.io.File], {"x": "a"}, {"x": "a"}),
        (flyte.io.File | None, "a", "a"),
        (Optional[flyte.io.File], None, None),  # noqa: UP045 - as others write it
        (Optional[list[flyte.io.File]], ["a"], ["a"]),  # noqa: UP045
        (list[flyte.io.File | None], ["a", None], ["a", None]),
        (str | flyte.io.File, "a", "a"),
    ],
)
async def test_paths_within_lists_and_unions_become_files(kind, given, paths):
    value = await outputs.native(task(outputs={"a": kind}), {"a": given})

    def path(each):
        return each.path if isinstance(each, flyte.io.File) else each

    if isinstance(value, list):
        assert [path(each) for each in value] == paths
        assert value[0].path == "a"
    elif isinstance(value, dict):
        assert {key: each.path for key, each in value.items()} == paths
    else:
        assert path(value) == paths
        assert isinstance(value, flyte.io.File) is (given == "a" and kind != str | flyte.io.File)


async def test_an_address_becomes_a_data_frame():
    value = await outputs.native(task(outputs={"a": flyte.io.DataFrame}), {"a": "s3://x"})
    assert value.uri == "s3://x"


@pytest.mark.parametrize(("given", "said"), [(None, "gave none"), ({"b": 1}, "gave b")])
async def test_an_output_that_is_missing_is_named(given, said):
    with pytest.raises(ConnectorError, match=f"t has no output 'a'.*{said}"):
        await outputs.native(task(outputs={"a": int}), given)


# -- jobs ---------------------------------------------------------------------------------------


class Silent:
    """A view, a keeper and its pledge that do nothing; `released` says what the keeper was told."""

    released = False

    def show(self, *args) -> None: ...
    def show_silence(self, *args) -> None: ...
    def end(self, *args) -> None: ...
    def keep(self, *args) -> None: ...

    def pledge(self, *args):
        return self

    def release(self) -> None:
        self.released = True


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


@pytest.fixture
def impatient(monkeypatch):
    """Give a job up at the first look that fails."""
    monkeypatch.setattr("flyte_jupyter.driver.connectors.job._PATIENCE", 0.0)


async def test_what_cannot_be_seen_any_more_is_deleted(monkeypatch, impatient):
    connector = Connector(OSError("down"))
    with pytest.raises(ConnectorError, match="'get' of of tests failed: OSError: down"):
        await job(connector, monkeypatch).run({}, "")
    assert connector.deleted == 1


async def test_what_was_launched_although_nobody_waits_any_more_is_deleted(monkeypatch):
    """A launch that is under way when its task is stopped may well succeed."""
    connector = SlowToLaunch()
    running = asyncio.ensure_future(job(connector, monkeypatch).run({}, ""))
    await connector.begun.wait()
    running.cancel()
    await asyncio.sleep(0.01)
    assert not running.done()
    connector.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert connector.deleted == 1


async def test_a_deletion_is_seen_through_although_it_is_stopped_again(monkeypatch):
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Connector):
        async def delete(self, resource_meta, **kwargs):
            begun.set()
            await go_on.wait()
            self.deleted += 1

    connector = Slow(*[said(TaskExecution.RUNNING)] * 99)
    running = asyncio.ensure_future(job(connector, monkeypatch).run({}, ""))
    await asyncio.sleep(0.1)
    running.cancel()
    await begun.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert connector.deleted == 1


@pytest.mark.parametrize("refused", [False, True])
async def test_the_keeper_is_released_when_there_is_nothing_to_keep(
    monkeypatch, impatient, refused
):
    class Refusing(Connector):
        async def delete(self, resource_meta, **kwargs):
            raise OSError("not now")

    connector = (Refusing if refused else Connector)(OSError("down"))
    one = job(connector, monkeypatch)
    with pytest.raises(ServiceError):
        await one.run({}, "")
    assert one._keeper.released is not refused


async def test_what_cannot_be_shown_does_not_end_a_job(monkeypatch):
    done = said(TaskExecution.SUCCEEDED)
    one = job(Connector(said(TaskExecution.RUNNING), done), monkeypatch)

    def show(*args) -> None:
        raise ValueError("no page")

    monkeypatch.setattr(Silent, "show", show)
    assert await one.run({}, "") is done


async def test_a_secret_in_what_a_service_says_is_hidden(monkeypatch):
    connector = Connector(said(TaskExecution.FAILED, message="Bearer token is wrong"))
    with pytest.raises(JobFailed) as caught:
        await job(connector, monkeypatch).run({}, "")
    assert "Bearer **** is wrong" in str(caught.value)


def test_what_is_shown_has_no_secret_and_no_markup(monkeypatch):
    pages: list[dict[str, str]] = []

    class Shell:
        class display_pub:  # noqa: N801
            @staticmethod
            def publish(data, **more):
                pages.append(data)

    monkeypatch.setattr("flyte_jupyter.driver.connectors.view.get_ipython", lambda: Shell)
    view = JobView("<t>", "r")
    info = {"api_key": "hush", ("a", 1): ["x"], "n": {"password": "hush"}}
    resource = said(TaskExecution.RUNNING, message="<i>token</i>", custom_info=info)
    view.show("RUNNING", resource, lambda text: text.replace("token", "****"))
    view.end("not deleted: <img>")
    assert len(pages) == 2
    for page in pages:
        assert "hush" not in str(page)
        assert "token" not in str(page)
        assert not {"<t>", "<i>", "<img>"} & set(re.findall(r"<\w+>", page["text/html"]))


async def test_what_may_be_tried_again_has_ended_and_is_not_deleted(monkeypatch):
    connector = Connector(said(TaskExecution.RETRYABLE_FAILED, message="preempted"))
    with pytest.raises(ServiceError, match="preempted"):
        await job(connector, monkeypatch).run({}, "")
    assert connector.deleted == 0


async def test_a_launch_that_was_stopped_is_kept_in_mind_if_it_cannot_be_deleted(monkeypatch):
    class Refusing(SlowToLaunch):
        async def delete(self, resource_meta, **kwargs):
            raise OSError("not now")

    kept: list[Meta] = []
    monkeypatch.setattr(Silent, "keep", lambda self, meta: kept.append(meta))
    connector = Refusing()
    one = job(connector, monkeypatch)
    running = asyncio.ensure_future(one.run({}, ""))
    await connector.begun.wait()
    running.cancel()
    await asyncio.sleep(0.01)
    connector.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kept == [Meta("job")]
    assert not one._keeper.released


async def test_a_connector_that_blocks_keeps_no_task_waiting_and_is_not_struck():
    import threading

    release, loops = threading.Event(), []

    async def blocks():
        loops.append(asyncio.get_running_loop())
        release.wait(30)
        return "done"

    running = asyncio.ensure_future(run_beside(blocks()))
    await asyncio.sleep(0.05)
    assert loops != [asyncio.get_running_loop()]
    running.cancel()
    await asyncio.sleep(0.05)
    assert not running.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_runs_beside_gives_its_value_and_its_error():
    async def value():
        return 1

    async def error():
        raise KeyError("x")

    assert await run_beside(value()) == 1
    with pytest.raises(KeyError):
        await run_beside(error())


def test_a_keeper_that_cannot_start_is_named(monkeypatch):
    monkeypatch.setattr(keeper, "KEEPER", "no.such.module")
    one = keeper.Keeper()
    with pytest.raises(ConnectorError, match="sees to the job when this driver cannot"):
        one.pledge(Connector(), {})


async def test_a_service_may_be_silent_for_a_while(monkeypatch):
    """How many looks fail says nothing: the first are but moments after the launch."""
    done = said(TaskExecution.SUCCEEDED)
    connector = Connector(*[OSError("starting")] * 5, said(TaskExecution.RUNNING), done)
    assert await job(connector, monkeypatch).run({}, "") is done
    assert connector.deleted == 0


async def test_since_when_a_service_is_silent_is_shown(monkeypatch):
    shown: list[tuple[float, str]] = []
    monkeypatch.setattr(Silent, "show_silence", lambda self, *said: shown.append(said))
    silence = [OSError("the token is wrong"), OSError("down")]
    connector = Connector(*silence, said(TaskExecution.SUCCEEDED))
    await job(connector, monkeypatch).run({}, "")
    (first, why), (second, _) = shown
    assert first == second
    assert "the **** is wrong" in why


@pytest.mark.parametrize("nonsense", [None, "done", Resource(phase=99)])
async def test_an_answer_that_is_none_is_named(monkeypatch, impatient, nonsense):
    with pytest.raises(ConnectorError, match="makes no sense"):
        await job(Connector(nonsense), monkeypatch).run({}, "")


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
