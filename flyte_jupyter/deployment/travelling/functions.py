"""A task's function as it is called in a container."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flyte_jupyter.deployment.travelling.boxes import boxed, opened
from flyte_jupyter.deployment.travelling.errors import told


def as_sent(
    function: Callable[..., Any], packed: frozenset[str], boxes: Sequence[Any], always: bool
) -> Any:
    """Return a task's function as it is called in a container.

    Parameters
    ----------
    function
        The user's.
    packed
        Arguments that come as a file with a pickle in it.
    boxes
        For its value, or each of the tuple that it is: what takes it, None if Flyte has its type.
    always
        Whether every value of such a place goes into its box, plain ones too.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def sent(**arguments: Any) -> Any:
            with told():
                value = await function(**opened(arguments, packed))
                return _in_boxes(value, boxes, always)
    else:

        @functools.wraps(function)
        def sent(**arguments: Any) -> Any:
            with told():
                value = function(**opened(arguments, packed))
                return _in_boxes(value, boxes, always)

    return sent


def _in_boxes(value: Any, boxes: Sequence[Any], always: bool) -> Any:
    if len(boxes) == 1:
        return _in_box(value, boxes[0], always)
    if not isinstance(value, tuple) or len(value) != len(boxes):
        return value  # Flyte says what is wrong with it
    return tuple(_in_box(each, box, always) for each, box in zip(value, boxes, strict=True))


def _in_box(value: Any, box: Any, always: bool) -> Any:
    if box is None:
        return value
    return box(value, "its value") if always else boxed(value, "its value", box)
