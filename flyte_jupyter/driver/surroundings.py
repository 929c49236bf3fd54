"""A task works where the notebook works: in its folder, with its search path and environment.

Only the process that runs the task follows; workers of the cluster stay as they were begun.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from flyte_jupyter.driver import local_imports
from flyte_jupyter.driver.wire import Around


class Surroundings:
    """What of this process follows the notebook.

    Parameters
    ----------
    path
        The notebook's search path when this process began.
    """

    def __init__(self, path: Sequence[str]) -> None:
        self._begun = self._path = list(path)
        self._before: dict[str, str | None] = {}

    def follow(self, around: Around) -> None:
        """Be as the notebook is now."""
        with contextlib.suppress(OSError):
            if os.getcwd() != around["cwd"]:  # noqa: PTH109 - one system call less
                os.chdir(around["cwd"])
        self._search(around.get("path", self._begun))
        self._set(around.get("environ", {}))

    def _search(self, path: list[str]) -> None:
        if path == self._path:
            return
        own = [entry for entry in sys.path if entry not in self._path]
        sys.path[:] = [*path, *(entry for entry in own if entry not in path)]
        self._path = path
        local_imports.install([os.getcwd(), *filter(None, path)])  # noqa: PTH109 - as text

    def _set(self, changes: dict[str, tuple[str | None, str | None]]) -> None:
        for name in [name for name in self._before if name not in changes]:
            _put(name, self._before.pop(name))  # as it was there in the beginning
        for name, (then, now) in changes.items():
            here = self._before.setdefault(name, os.environ.get(name))
            if then and here and here.startswith(f"{then}{os.pathsep}"):
                added = here.removeprefix(then)  # by an image's packages, to a path
                _put(name, now and now + added)
            else:
                _put(name, now)


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    elif os.environ.get(name) != value:
        os.environ[name] = value
