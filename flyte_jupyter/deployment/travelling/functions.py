"""A task's function as it is called in a container."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from flyte_jupyter.deployment.travelling.boxes import boxed, opened
from flyte_jupyter.deployment.travelling.errors import told


def as_sent(function: Callable[..., Any], packed: frozenset[str], box: Any) -> Any:
    """Return a task's function as it is called in a container.

    Parameters
    ----------
    function
        The user's.
    packed
        Arguments that come as a file with a pickle in it.
    box
        Takes a value whose type nobody has declared; None if one is declared.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def sent(**arguments: Any) -> Any:
            with told():
                value = await function(**opened(arguments, packed))
                return boxed(value, "its value", box) if box else value
    else:

        @functools.wraps(function)
        def sent(**arguments: Any) -> Any:
            with told():
                value = function(**opened(arguments, packed))
                return boxed(value, "its value", box) if box else value

    return sent
