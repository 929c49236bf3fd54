"""The text of local modules that code imports when it runs, which no captured value has in it.

What a cell's inputs refer to travels with them, and so is part of their fingerprint. A module that
is imported inside the cell or a function is read by the driver at that moment, from its file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from flyte_jupyter.cells.installed import editables, is_installed, lies_under, user_folders
from flyte_jupyter.deployment.travelling.luggage import Module


class Source(NamedTuple):
    """What a file says: a digest that comments do not change, and what it imports."""

    digest: str
    imports: frozenset[str]


def imported_by(tree: ast.AST) -> frozenset[str]:
    """Return the modules that a syntax tree imports, wherever; relative imports are left out."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return frozenset(found)


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the digests of all local modules among some, and of those that they import.

    Parameters
    ----------
    modules
        Names; a package is taken as a whole.

    Returns
    -------
    dict of str
        By file.
    """
    return {str(path): source.digest for _, path, source in _sources(modules)}


def texts(modules: Iterable[str]) -> dict[str, Module]:
    """Return all local modules among some, and those that they import, as text.

    Parameters
    ----------
    modules
        Names; a package is taken as a whole.
    """
    found: dict[str, Module] = {}
    for name, path, _ in _sources(modules):
        text = path.read_text(encoding="utf-8", errors="replace")
        found[name] = Module(str(path), text, path.name == "__init__.py")
        parent, folder = name.rpartition(".")[0], path.parent
        while parent:  # a folder without a file of its own is a package too
            found.setdefault(parent, Module(str(folder), "", True))
            parent, folder = parent.rpartition(".")[0], folder.parent
    return found


def _sources(modules: Iterable[str]) -> Iterator[tuple[str, Path, Source]]:
    seen: set[str] = set()
    waiting = [*modules]
    while waiting:
        package = waiting.pop().partition(".")[0]
        if not package or package in seen:  # `from . import x` imports what has no name
            continue
        seen.add(package)
        for name, path in _files(package):
            status = path.stat()
            source = _read(str(path), status.st_mtime_ns, status.st_size)
            yield name, path, source
            waiting += source.imports


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield names and files of a top-level module or package if it is the user's own."""
    cwd, search_path = os.getcwd(), tuple(sys.path)  # noqa: PTH109 - as `LocalModules` has it
    if package in sys.builtin_module_names or package in editables(search_path).names:
        return
    spec = PathFinder.find_spec(package, [entry or cwd for entry in search_path])
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin and _is_the_users(spec.origin, cwd, search_path):
            yield package, Path(spec.origin)
        return
    for folder in spec.submodule_search_locations:
        if _is_the_users(folder, cwd, search_path):
            for path in sorted(Path(folder).rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def _is_the_users(path: str, cwd: str, search_path: tuple[str, ...]) -> bool:
    real = os.path.realpath(path)
    if is_installed(path) or is_installed(real):
        return False
    installed = editables(search_path).folders
    return lies_under(real, user_folders(cwd, search_path)) and not lies_under(real, installed)


@functools.lru_cache(maxsize=1024)
def _read(path: str, changed: int, size: int) -> Source:
    """Read a file, once as it is; its stamp is there to be part of the key."""
    del changed, size
    text = Path(path).read_bytes()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # an extension module, or one that cannot be imported
        return Source(hashlib.sha256(text).hexdigest(), frozenset())
    return Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported_by(tree))
