"""The notebook's own modules, when a task cell imports them in the driver.

A driver on the notebook's machine can import `helpers.py` from the notebook's folder; the workers
of its cluster perhaps cannot. So what is imported from there is pickled by value, and is imported
anew once the file was edited.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

Stamp = tuple[int, int]

_OURS = __name__.partition(".")[0]
_SITE_FOLDERS = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class _Source:
    """The file of an imported module, as it was when it was imported."""

    path: str
    stamp: Stamp | None
    package: str


class _LocalLoader(SourceFileLoader):
    """Loads a module as always, and then has it travel by value."""

    def __init__(self, fullname: str, path: str, finder: LocalFinder) -> None:
        super().__init__(fullname, path)
        self._finder = finder

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; afterwards it has a loader that can be pickled anywhere."""
        path, name = str(self.path), module.__name__
        stamp = _stamp(path)
        super().exec_module(module)
        plain = SourceFileLoader(name, path)
        module.__loader__ = plain
        if module.__spec__ is not None:
            module.__spec__.loader = plain
        self._finder.note(module, _Source(path, stamp, module.__package__ or ""))


class LocalFinder:
    """A finder for `sys.meta_path` that sees modules under the notebook's folders only."""

    def __init__(self) -> None:
        self._roots: tuple[str, ...] = ()
        self._imported: dict[str, _Source] = {}

    def look_in(self, roots: Sequence[str]) -> None:
        """Set the notebook's folders."""
        self._roots = tuple(os.path.realpath(root) for root in roots)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for a source file under a root; leave everything else to the other finders."""
        if fullname.partition(".")[0] == _OURS:  # in the folder of its own repository
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return None
        if not self._is_local(os.path.realpath(spec.origin)):
            return None
        spec.loader = _LocalLoader(fullname, spec.origin, self)
        return spec

    def invalidate_caches(self) -> None:
        """Do nothing: what is cached is `PathFinder`'s."""

    def note(self, module: ModuleType, source: _Source) -> None:
        """Register a module, and with it the packages without a file that it lies in."""
        self._imported[module.__name__] = source
        cloudpickle.register_pickle_by_value(module)
        parent = module.__name__.rpartition(".")[0]
        while parent in sys.modules:
            if self._is_local_namespace(sys.modules[parent]):
                cloudpickle.register_pickle_by_value(sys.modules[parent])
            parent = parent.rpartition(".")[0]

    def forget_changed(self) -> tuple[str, ...]:
        """Drop edited modules, and those that import them; return their names."""
        self._imported = {n: s for n, s in self._imported.items() if n in sys.modules}
        changed = {n for n, s in self._imported.items() if _stamp(s.path) != s.stamp}
        if not changed:
            return ()
        for name in changed:
            # Bytecode files know seconds only, and an edit may come within one.
            with suppress(OSError, NotImplementedError):
                Path(importlib.util.cache_from_source(self._imported[name].path)).unlink()
        stale = self._with_dependents(changed)
        for name in stale:
            del self._imported[name]
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return tuple(sorted(stale))

    def _with_dependents(self, changed: set[str]) -> set[str]:
        """Add the modules that import a changed one, and those below a changed package."""
        uses = {name: set(_imports(source)) for name, source in self._imported.items()}
        stale: set[str] = set()
        while changed - stale:
            stale |= changed
            changed = {
                name
                for name, used in uses.items()
                if used & stale or any(name.startswith(f"{parent}.") for parent in stale)
            }
        return stale

    def _is_local_namespace(self, package: ModuleType) -> bool:
        """Tell a folder of the notebook's from a namespace of installed packages (`google`)."""
        folders = [os.path.realpath(folder) for folder in package.__path__]
        return package.__file__ is None and all(self._is_local(folder) for folder in folders)

    def _is_local(self, path: str) -> bool:
        if not _SITE_FOLDERS.isdisjoint(Path(path).parts):
            return False
        if path.startswith(os.path.realpath(sysconfig.get_path("stdlib")) + os.sep):
            return False
        return any(path.startswith(root.rstrip(os.sep) + os.sep) for root in self._roots)


def _stamp(path: str) -> Stamp | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _imports(source: _Source) -> Iterator[str]:
    """Yield the absolute names of what a module's source imports, submodules among them."""
    try:
        tree = ast.parse(Path(source.path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = source.package.rsplit(".", node.level - 1)[0]
                base = f"{package}.{base}".rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


_FINDER = LocalFinder()


def install(roots: Sequence[str]) -> None:
    """Have modules under these folders travel by value once a task imports them.

    May be called again, with other folders.

    Parameters
    ----------
    roots
        The notebook's folders, which are on `sys.path` by other means.
    """
    _FINDER.look_in(roots)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forget_changed() -> tuple[str, ...]:
    """Drop local modules whose source changed since they were imported; return their names.

    To be called before every task: the import statement of its cell then finds the edited file.
    """
    return _FINDER.forget_changed()
