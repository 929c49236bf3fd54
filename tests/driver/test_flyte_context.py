"""Contract tests of private names of Flyte's SDK: they fail loudly when a new SDK changes one."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys

import flyte
import flyte.syncify
import pytest
from flyte.extend import AsyncFunctionTaskTemplate, TaskPluginRegistry
from flyte.models import TaskContext
from flyteplugins.dask import Dask

from flyte_jupyter.driver.flyte_sdk import context as flyte_context


def test_the_context_can_be_replaced():
    from flyte._context import internal_ctx

    assert list(inspect.signature(internal_ctx().replace_task_context).parameters) == ["tctx"]


def test_a_local_controller_can_be_made():
    from flyte._internal.controllers import create_controller

    assert "local" in str(inspect.signature(create_controller))
    assert create_controller("local") is not None


def test_the_background_loop_can_be_stopped_and_made_again():
    background = flyte.syncify.syncify._bg_loop
    assert background.thread.is_alive()
    assert callable(background.stop)
    assert list(inspect.signature(type(background).__init__).parameters)[:2] == ["self", "name"]


async def test_a_cell_runs_under_a_task_context(tmp_path):
    seen = []

    async def body():
        context = flyte.ctx()
        assert type(context) is TaskContext
        seen.append((context.action.name, context.action.run_name, context.mode))
        seen.append(context.is_in_cluster() if hasattr(context, "is_in_cluster") else False)
        seen.append(os.fspath(context.raw_data_path.path))

    task = flyte_context.build_task("env.cell", None, body)
    assert isinstance(task, AsyncFunctionTaskTemplate)
    assert task.name == "env.cell"
    await flyte_context.run_task(task, "cell-1", tmp_path)
    # Of the cluster, for a tracker outside knows runs of other sessions too.
    run = f"cell-1-{tmp_path.parent.name[-8:]}"
    assert seen == [("cell-1", run, "local"), False, str(tmp_path / "cell-1" / "raw")]
    assert type(flyte.ctx()) is not TaskContext, "and not after it"
    assert list(tmp_path.iterdir()) == [], "no file before one is written"


class Config:
    pass


calls: list[str] = []


class Template(AsyncFunctionTaskTemplate):
    async def pre(self, *args, **kwargs):
        calls.append("pre")
        return {"from": "pre"}

    async def post(self, value):
        calls.append("post")
        return value


@pytest.fixture
def plugin():
    calls.clear()
    TaskPluginRegistry.register(Config, Template)
    yield
    for table in vars(TaskPluginRegistry).values():
        if isinstance(table, dict):
            table.pop(Config, None)


@pytest.mark.usefixtures("plugin")
async def test_the_plugins_own_pre_and_post_are_called(tmp_path):
    async def body():
        calls.append(f"body with {flyte.ctx().data}")

    task = flyte_context.build_task("env.cell", Config(), body)
    assert type(task) is Template
    await flyte_context.run_task(task, "cell-1", tmp_path)
    assert calls == ["pre", "body with {'from': 'pre'}", "post"]


def test_a_config_brings_the_template_of_its_plugin():
    import flyteplugins.dask  # noqa: F401 - registers it

    async def body():
        pass

    task = flyte_context.build_task("env.cell", Dask(), body)
    assert type(task) is TaskPluginRegistry.find(Dask)
    assert type(task) is not AsyncFunctionTaskTemplate
    plain = flyte_context.build_task("env.cell", Config(), body)
    assert type(plain) is AsyncFunctionTaskTemplate


nested = flyte.TaskEnvironment(name="nested")


@nested.task
async def double(x: int) -> int:
    return 2 * x


@nested.task
def triple(x: int) -> int:
    return 3 * x


@pytest.mark.filterwarnings("ignore:Support for class-based `config`")  # in the SDK's flyte.io
async def test_a_cell_can_await_other_tasks(tmp_path):
    results = []

    async def body():
        results.append(await double(21))
        results.extend(await asyncio.gather(double(1), double(2)))
        results.append(await triple.aio(2))

    task = flyte_context.build_task("env.cell", None, body)
    await flyte_context.run_task(task, "cell-1", tmp_path)
    assert results == [42, 2, 4, 6]


async def test_an_error_of_the_body_comes_out_as_it_is(tmp_path):
    async def body():
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await flyte_context.run_task(
            flyte_context.build_task("env.cell", None, body), "cell-1", tmp_path
        )


def test_the_sdks_thread_survives_a_fork():
    """In a process of its own: it is stopped there for good."""
    code = """
import asyncio, os, sys, threading
from flyte_jupyter.driver.flyte_sdk import context as flyte_context
import flyte, flyte.syncify
flyte_context.survive_fork()
background = flyte.syncify.syncify._bg_loop
assert not background.thread.is_alive()
assert threading.active_count() == 1, threading.enumerate()

@flyte.syncify.syncify
async def value():
    return 42

pid = os.fork()
if not pid:
    os._exit(0 if background.thread.is_alive() and value() == 42 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
