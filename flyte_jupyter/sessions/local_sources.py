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
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [*modules]
    while waiting:
        package = waiting.pop().partition(".")[0]
        if not package or package in seen:  # `from . import x` imports what has no name
            continue
        seen.add(package)
        for path in _files(package):
            status = path.stat()
            source = _read(str(path), status.st_mtime_ns, status.st_size)
            found[str(path)] = source.digest
            waiting += source.imports
    return found


def _files(package: str) -> Iterator[Path]:
    """Yield the files of a top-level module or package if it is the user's own."""
    cwd, search_path = os.getcwd(), tuple(sys.path)  # noqa: PTH109 - as `LocalModules` has it
    if package in sys.builtin_module_names or package in editables(search_path).names:
        return
    spec = PathFinder.find_spec(package, [entry or cwd for entry in search_path])
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin and _is_the_users(spec.origin, cwd, search_path):
            yield Path(spec.origin)
        return
    for folder in spec.submodule_search_locations:
        if _is_the_users(folder, cwd, search_path):
            yield from sorted(Path(folder).rglob("*.py"))


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
