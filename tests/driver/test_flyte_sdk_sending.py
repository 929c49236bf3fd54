"""Parts of the SDK that sending to a deployment rests on: these fail when a new one changes one."""

from __future__ import annotations

import contextvars
import inspect
import logging

import flyte
import pytest
from flyte._status import StatusProxy, status
from flyte.extend import TaskTemplate
from flyte.remote._logs import Logs
from flyte.types import FlytePickle, TypeEngine

from flyte_jupyter.driver.flyte_sdk.status import client_is_configured, heard_by


def test_what_the_sdk_says_is_heard_in_one_context_alone(capsys):
    said = []
    with heard_by(said.append):
        status.step("building")
        contextvars.copy_context().run(status.success, "built")
    assert said == ["building", "built"]
    assert "building" not in capsys.readouterr().err
    status.step("elsewhere")
    assert said == ["building", "built"]
    assert "elsewhere" in capsys.readouterr().err


def test_all_that_is_said_goes_through_one_method():
    for name in ("step", "success", "info", "warn"):
        assert "self._emit(" in inspect.getsource(getattr(StatusProxy, name))


def test_a_log_is_followed_by_action_and_attempt():
    assert {"action_id", "attempt"} <= set(inspect.signature(Logs.tail.fn).parameters)


def test_the_sdk_tells_whether_it_knows_a_deployment():
    flyte.init()
    assert not client_is_configured()


def test_a_task_is_pickled_by_its_state():
    assert TaskTemplate.__reduce_ex__ is object.__reduce_ex__
    assert {"__getstate__", "__setstate__"} <= set(vars(TaskTemplate))


def test_a_kind_of_pickle_is_pickled_without_a_warning(caplog):
    class Box(FlytePickle):
        pass

    with caplog.at_level(logging.WARNING, logger="flyte"):
        assert type(TypeEngine.get_transformer(Box)).__name__ == "FlytePickleTransformer"
    assert not caplog.records


def test_a_clone_of_an_environment_has_none_of_its_tasks():
    dask = pytest.importorskip("flyteplugins.dask")
    other = flyte.TaskEnvironment(name="other")
    env = flyte.TaskEnvironment(
        name="env",
        image="registry/image:1",
        plugin_config=dask.Dask(),
        cache="auto",
        env_vars={"A": "1"},
        resources=flyte.Resources(cpu=2),
    )

    @env.task
    async def mine() -> None:
        pass

    clone = env.clone_with("env", depends_on=[other])
    assert not clone.tasks
    assert (clone.name, clone.depends_on) == ("env", [other])
    for name in ("image", "plugin_config", "cache", "env_vars", "resources"):
        assert getattr(clone, name) == getattr(env, name), name
