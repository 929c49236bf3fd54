"""Names of the SDK's by which tasks call each other: these fail when a new one changes one."""

from __future__ import annotations

import inspect

import flyte
import pytest
from flyte import _map
from flyte._internal import controllers
from flyte._internal.controllers._local_controller import LocalController
from flyte._task import TaskTemplate
from flyte.errors import RuntimeUserError

from flyte_jupyter.driver.flyte_sdk.calls import _unwrapped


def test_the_controller_is_held_where_it_is_replaced():
    before = controllers._ControllerState.controller
    mine = LocalController()
    try:
        controllers._ControllerState.controller = mine
        assert controllers.get_controller() is mine
    finally:
        controllers._ControllerState.controller = before


@pytest.mark.parametrize("name", ["submit", "submit_sync"])
def test_a_controller_gets_a_task_and_its_arguments(name):
    parameters = list(inspect.signature(getattr(LocalController, name)).parameters.values())
    kinds = [parameter.kind for parameter in parameters[-2:]]
    assert [parameter.name for parameter in parameters[:2]] == ["self", "_task"]
    assert kinds == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def test_map_has_the_parts_that_are_put_together_otherwise():
    mapper = type(flyte.map)
    assert {"validate_partial", "_get_name", "aio", "__call__"} <= set(dir(mapper))
    assert flyte.map._get_name("env.task", "group") == "env.task_group"
    options = inspect.signature(mapper.__call__).parameters
    assert {"group_name", "concurrency", "return_exceptions"} <= set(options)
    wanted = inspect.signature(_map.MapAsyncIterator).parameters
    assert {"func", "args", "name", "concurrency", "return_exceptions"} <= set(wanted)
    assert callable(_map._map.aio)


def test_what_a_task_raised_is_the_cause_of_what_the_sdk_raises():
    env = flyte.TaskEnvironment(name="calls")

    @env.task
    def fails(x: int) -> int:
        raise LookupError(x)

    with pytest.raises(RuntimeUserError) as caught:
        fails(3)
    assert caught.value.code == "LookupError"
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(LookupError):
        _unwrapped(TaskTemplate.__call__)(fails, 3)


def test_an_error_of_that_kind_that_a_task_raises_itself_stays_what_it_is():
    env = flyte.TaskEnvironment(name="calls_too")

    @env.task
    def fails() -> None:
        raise RuntimeUserError("MINE", "text")

    with pytest.raises(RuntimeUserError, match="text"):
        _unwrapped(TaskTemplate.__call__)(fails)
