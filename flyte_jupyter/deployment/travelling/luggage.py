"""Local modules on their way to a container.

They go as files and are found before those of the image, which may have been built when they were
others. Processes that the task starts find them too.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import linecache
import os
import pickle
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any


class Luggage:
    """What has to be there before a task can be unpickled.

    Parameters
    ----------
    files
        Files of local modules, by their paths below a folder of `sys.path`.
    cells
        Text of the notebook's cells by file name, for tracebacks.
    spread
        Whether what they define is pickled by value in the container, for workers elsewhere.
    """

    def __init__(self, files: Mapping[str, bytes], cells: Mapping[str, str], spread: bool) -> None:
        self.files, self.cells, self.spread = dict(files), dict(cells), spread

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.files, self.cells, self.spread)


def _unpack(files: dict[str, bytes], cells: dict[str, str], spread: bool) -> Luggage:
    luggage = Luggage(files, cells, spread)
    if "flyte_jupyter" in sys.modules:
        return luggage  # a notebook, which has its own
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)  # lines are looked at while it runs
    for name, text in cells.items():
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    if files:
        _lay_out(files, spread)
    _pass_on(luggage)
    return luggage


def _lay_out(files: dict[str, bytes], spread: bool) -> None:
    folder = tempfile.mkdtemp(prefix="flyte-luggage-")
    atexit.register(_remove, folder, os.getpid())
    for path, data in files.items():
        place = os.path.join(folder, *path.split("/"))  # noqa: PTH118 - pickled by value
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120 - as above
        with open(place, "wb") as file:  # noqa: PTH123 - as above
            file.write(data)
    mine = {path.partition("/")[0].partition(".")[0] for path in files}
    for name in list(sys.modules):
        if name.partition(".")[0] in mine:
            del sys.modules[name]  # the image's
    sys.path.insert(0, folder)
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    importlib.invalidate_caches()
    if spread:
        sys.meta_path.insert(0, Spreading(mine, folder))


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


class Spreading(importlib.abc.MetaPathFinder):
    """Has modules pickled by value once they are imported: workers elsewhere have no files."""

    def __init__(self, names: set[str], folder: str) -> None:
        self._names, self._folder = names, folder
        self._spread: set[str] = set()
        self._lock = threading.RLock()

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Answer for a module that came along."""
        if name.partition(".")[0] not in self._names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path or sys.path, target)
        loader: Any = getattr(spec, "loader", None)
        came_along = str(getattr(spec, "origin", None)).startswith(self._folder + os.sep)
        if came_along and hasattr(loader, "exec_module"):
            run = loader.exec_module

            def exec_module(module: Any) -> None:
                import cloudpickle

                run(module)
                cloudpickle.register_pickle_by_value(module)
                self._spread.add(module.__name__)

            loader.exec_module = exec_module
        return spec

    @contextlib.contextmanager
    def not_spreading(self) -> Iterator[None]:
        """Have them pickled as modules that are there: the notebook has them, too."""
        import cloudpickle

        with self._lock:
            known = cloudpickle.list_registry_pickle_by_value()
            names = [name for name in self._spread if name in sys.modules and name in known]
            for name in names:
                cloudpickle.unregister_pickle_by_value(sys.modules[name])
            try:
                yield
            finally:
                for name in names:
                    cloudpickle.register_pickle_by_value(sys.modules[name])


class Thawing:
    """A task that is unpickled once its luggage is there.

    Parameters
    ----------
    luggage
        What it needs.
    data
        It, pickled.
    """

    def __init__(self, luggage: Luggage, data: bytes) -> None:
        self._luggage, self._data = luggage, data

    def __reduce__(self) -> tuple[Any, ...]:
        return _thawed, (self._luggage, self._data)


def _thawed(luggage: Luggage, data: bytes) -> Any:
    del luggage
    return pickle.loads(data)


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
