"""Local modules on their way to a container, as text.

They are found before those of the image, which may have been built when they were others.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import linecache
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple


class Module(NamedTuple):
    """A local module: its file, its text, and whether it is a package."""

    path: str
    text: str
    package: bool


class Finder(importlib.abc.Loader):
    """Finds modules that came as text; an entry of `sys.meta_path`, and their loader."""

    def __init__(self, modules: Mapping[str, Module]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Answer for a module that came along."""
        del path, target
        found = self.modules.get(name)
        if found is None:
            return None
        spec = importlib.util.spec_from_loader(
            name, self, origin=found.path, is_package=found.package
        )
        if spec is not None:
            spec.has_location = True
        return spec

    def create_module(self, spec: Any) -> None:
        """Leave that to Python."""

    def exec_module(self, module: Any) -> None:
        """Run the module's text."""
        found = self.modules[module.__name__]
        exec(compile(found.text, found.path, "exec"), vars(module))  # noqa: S102 - the user's own

    def get_source(self, name: str) -> str:
        """Return a module's text, for tracebacks."""
        return self.modules[name].text


class Luggage:
    """What has to be there before a task can be unpickled.

    Parameters
    ----------
    modules
        Local modules by name.
    cells
        Text of the notebook's cells by file name, for tracebacks.
    """

    def __init__(self, modules: Mapping[str, Module], cells: Mapping[str, str]) -> None:
        self.modules, self.cells = dict(modules), dict(cells)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.modules, self.cells)


def _unpack(modules: dict[str, Module], cells: dict[str, str]) -> Luggage:
    luggage = Luggage(modules, cells)
    if "flyte_jupyter" in sys.modules:
        return luggage  # a notebook, which has its own
    for name in modules:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Finder(modules))
    for name, text in cells.items():
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    _pass_on(luggage)
    return luggage


def _pass_on(luggage: Luggage) -> None:
    """Have tasks that this one calls take the luggage along in their turn."""
    from flyte.extend import TaskTemplate

    def reduce(task: Any, protocol: Any) -> tuple[Any, ...]:
        del protocol
        return reduced(task, type(task), luggage)

    TaskTemplate.__reduce_ex__ = reduce  # type: ignore[method-assign]


def reduced(task: Any, kind: type, luggage: Luggage) -> tuple[Any, ...]:
    """Return how a task is pickled: its luggage before all else of it.

    Parameters
    ----------
    task
        The task.
    kind
        What it is to be there.
    luggage
        What it needs.
    """
    return _empty, (luggage, kind), task.__getstate__()


def _empty(luggage: Luggage, kind: Any) -> Any:
    del luggage
    return kind.__new__(kind)
