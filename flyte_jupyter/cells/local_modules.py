"""Modules that lie beside the notebook: they travel by value, and are fresh at every task.

The driver may be in a pod that has none of the notebook's files, so their functions and classes
are pickled whole. And an edit of `helpers.py` shows in the next task without a kernel restart.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from operator import is_
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle

from flyte_jupyter.cells.declarations import declared_by, take_over
from flyte_jupyter.cells.installed import editables, is_installed, lies_under, user_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Stamp = tuple[int, int]
"""When a file was last changed, in ns, and its size in bytes."""


class _Seen(NamedTuple):
    """How a module's file was when the module was last loaded, as far as that was seen.

    Each load of a module, whoever asked for it, makes a spec of its own.
    """

    spec: object
    stamp: Stamp


_NEVER_LOCAL = frozenset({"__main__", "__mp_main__", __name__.partition(".")[0]})


class LocalModules:
    """The local modules among `sys.modules`, found once each."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._place: tuple[str, tuple[str, ...]] = ("", ())
        self._known: dict[str, ModuleType] = {}
        self._last: tuple[int, object] = (0, None)
        self._local: dict[str, str] = {}
        self._seen: dict[str, _Seen] = {}
        self._registered: Counter[str] = Counter()
        # Every version of a function that somebody may still hold, for IPython to bring up to date.
        self._versions: dict[tuple[str, str], list[Any]] = {}

    def find(self) -> dict[str, ModuleType]:
        """Return the local modules that are imported now.

        Only modules that are new since the last call are looked at; and all again when the
        working directory or `sys.path` changed.
        """
        with self._lock:
            place = (os.getcwd(), tuple(sys.path))  # noqa: PTH109 - after every cell
            if place != self._place:
                self._place, self._last = place, (0, None)
                self._known = {}
                self._local.clear()
            # Every task comes here, more than once, and mostly nothing has been imported: what is
            # comes last, also what is imported again.
            last = _newest()
            if last[0] != self._last[0] or last[1] is not self._last[1]:
                self._last = last
                self._look_at_new()
            return {name: sys.modules[name] for name in self._local if name in sys.modules}

    def _look_at_new(self) -> None:
        modules = sys.modules.copy()
        if not _same(modules, self._known):
            for name, module in modules.items():
                if self._known.get(name) is not module:
                    self._classify(name, module)
            self._known = modules

    def holds(self, name: str) -> bool:
        """Tell whether a module of that name is imported and local."""
        return name in self.find()

    def observe(self) -> None:
        """Note the state of the files of modules loaded since the last call.

        To be called after every cell, so that a file that is edited between its import and the
        first task counts as changed.
        """
        with self._lock:
            self._last = (0, None)  # a cell may also have put a module in the place of another
            for name, module in self.find().items():
                if not self._is_seen(name, module):
                    self._see(name, module, _stamp(self._local[name]))

    @contextmanager
    def travelling_by_value(self) -> Iterator[None]:
        """Have cloudpickle pickle local modules and what they define by value.

        Modules that the user registered himself stay registered. May be nested, also between
        threads.
        """
        with self._lock:
            before = cloudpickle.list_registry_pickle_by_value()
            mine = {
                name: module
                for name, module in self.find().items()
                if name not in before or self._registered[name]
            }
            for name, module in mine.items():
                self._registered[name] += 1
                cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            with self._lock:
                self._unregister(mine)

    def refresh(self, report: Callable[[str], None] | None = None) -> tuple[str, ...]:
        """Reload local modules whose source changed since they were imported.

        Functions and classes are updated in place, as `%autoreload` does it, and tasks and
        environments too, so that names imported with `from helpers import f` are new as well.

        Parameters
        ----------
        report
            Called with one line for each module that cannot be reloaded and is left as it was;
            such a module is tried again when its file changes again. Default: standard error.

        Returns
        -------
        tuple of str
            Names of the modules reloaded.
        """
        report = report or _to_stderr
        reloaded = []
        with self._lock:
            for name, module, stamp in self._changed():
                try:
                    _reload(module, Path(self._local[name]), self._versions)
                except Exception as error:  # noqa: BLE001, RUF100 - whatever the user's module raises
                    report(f"{name} was not reloaded: {type(error).__name__}: {error}")
                else:
                    reloaded.append(name)
                self._see(name, module, stamp)
        return tuple(reloaded)

    def _changed(self) -> list[tuple[str, ModuleType, Stamp]]:
        """Return modules whose file is another than when they were loaded, and how it is now."""
        changed = []
        for name, module in self.find().items():
            stamp = _stamp(self._local[name])
            if not self._is_seen(name, module):
                self._see(name, module, stamp)
            elif stamp is not None and stamp != self._seen[name].stamp:
                changed.append((name, module, stamp))
        return changed

    def _is_seen(self, name: str, module: ModuleType) -> bool:
        seen = self._seen.get(name)
        return seen is not None and seen.spec is getattr(module, "__spec__", None)

    def _see(self, name: str, module: ModuleType, stamp: Stamp | None) -> None:
        if stamp is not None:
            self._seen[name] = _Seen(getattr(module, "__spec__", None), stamp)

    def _classify(self, name: str, module: object) -> None:
        self._local.pop(name, None)
        if not isinstance(module, ModuleType) or name.partition(".")[0] in _NEVER_LOCAL:
            return
        if type(module).__name__ == "_LazyModule":
            return  # Flyte puts pandas off like this; to ask it for its name would import it
        if getattr(module, "__name__", None) != name:
            return  # an alias, such as os.path
        source = _source(module)
        paths = [source] if source else _package_paths(module)
        if paths and all(self._is_the_users(name, path) for path in paths):
            self._local[name] = source or ""

    def _is_the_users(self, name: str, path: str) -> bool:
        cwd, search_path = self._place
        if is_installed(path):
            return False  # nearly all modules, so before links are followed
        path = os.path.realpath(path)
        if is_installed(path) or not lies_under(path, user_folders(cwd, search_path)):
            return False
        installed = editables(search_path)
        return name.partition(".")[0] not in installed.names and not lies_under(
            path, installed.folders
        )

    def _unregister(self, modules: dict[str, ModuleType]) -> None:
        for name, module in modules.items():
            self._registered[name] -= 1
            if not self._registered[name]:
                del self._registered[name]
                with suppress(ValueError):  # the user unregistered it meanwhile
                    cloudpickle.unregister_pickle_by_value(module)


def _newest() -> tuple[int, object]:
    try:
        return len(sys.modules), next(reversed(sys.modules.values()))
    except RuntimeError:  # another thread has imported something between these two
        return 0, object()


def _same(modules: dict[str, ModuleType], known: dict[str, ModuleType]) -> bool:
    """Compare by identity, for a module may be any object, and in C, for there are thousands."""
    return list(modules) == list(known) and all(map(is_, modules.values(), known.values()))


def _source(module: ModuleType) -> str | None:
    """Return the path of a module's Python source; extension modules cannot travel."""
    path = getattr(module, "__file__", None)
    return path if isinstance(path, str) and path.endswith(".py") else None


def _package_paths(module: ModuleType) -> list[str]:
    """Return the folders of a package without `__init__.py`."""
    if getattr(module, "__file__", None) is not None:
        return []
    try:
        return [str(path) for path in getattr(module, "__path__", ())]
    except (KeyError, TypeError):  # the parent package was dropped from sys.modules
        return []


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - before every task
    except OSError:
        return None  # also for a package without a file
    return status.st_mtime_ns, status.st_size


def _reload(module: ModuleType, source: Path, versions: dict[tuple[str, str], list[Any]]) -> None:
    """Reload one module in place, once its source is known to compile.

    Bytecode files know seconds only: one written in the second of the edit would be taken for the
    edited file's, so it is removed.
    """
    from IPython.extensions.autoreload import superreload

    compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
    with suppress(OSError, NotImplementedError):
        Path(importlib.util.cache_from_source(str(source))).unlink()
    importlib.invalidate_caches()
    before = declared_by(module)
    superreload(module, importlib.reload, versions)
    take_over(before, module)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


_SHARED = LocalModules()
travelling_by_value = _SHARED.travelling_by_value
refresh = _SHARED.refresh
observe = _SHARED.observe
is_local_name = _SHARED.holds
