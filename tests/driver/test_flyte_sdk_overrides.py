"""What is known of tasks' overrides, and the names of the SDK's that this takes."""

from __future__ import annotations

from dataclasses import dataclass

import cloudpickle
import flyte
import pytest
from flyte._task import AsyncFunctionTaskTemplate, TaskTemplate
from flyte.extend import TaskPluginRegistry

from flyte_jupyter.driver.flyte_sdk.overrides import not_honoured, note_overrides


@dataclass
class Config:
    nodes: int = 1


@dataclass(kw_only=True)
class Template(AsyncFunctionTaskTemplate):
    plugin_config: Config | None = None


@pytest.fixture(autouse=True)
def _noting(monkeypatch):
    monkeypatch.setattr(TaskTemplate, "override", TaskTemplate.override)
    note_overrides()


@pytest.fixture
def task():
    env = flyte.TaskEnvironment(name="e", env_vars={"A": "1"})

    @env.task(retries=3)
    async def work() -> int:
        return 1

    return work


def test_what_is_overridden_is_known_and_stays_so(task):
    assert not_honoured(task) == {}
    assert not_honoured(task.override(short_name="other", timeout=3)) == {}
    made = task.override(env_vars={"A": "2"}).override(resources=flyte.Resources(cpu=1))
    assert set(not_honoured(made)) == {"env_vars", "resources"}
    travelled = cloudpickle.loads(cloudpickle.dumps(made.override(timeout=1)))
    assert set(not_honoured(travelled)) == {"env_vars", "resources"}


def test_another_plugin_config_is_known():
    TaskPluginRegistry.register(Config, Template)
    env = flyte.TaskEnvironment(name="e", plugin_config=Config())

    @env.task
    async def work() -> int:
        return 1

    assert not_honoured(work) == {}
    assert list(not_honoured(work.override(plugin_config=Config(2)))) == ["plugin_config"]


def test_no_retries_are_none(task):
    assert task.override(retries=0).retries.count == 0
    assert task.override(timeout=1).retries.count == 3
    assert task.override(retries=1).retries.count == 1
