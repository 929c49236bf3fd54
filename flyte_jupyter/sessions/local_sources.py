"""The text of local modules that code imports when it runs, which no captured value has in it.

What a cell's inputs refer to travels with them, and so is part of their fingerprint. A module that
is imported inside the cell or a function is read by the driver at that moment, from its file.
"""

from __future__ import annotations

import ast
import contextlib
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
    return {str(path): source.digest for _, path, source in _sources(modules)}


def files(modules: Iterable[str]) -> dict[str, bytes]:
    """Return the files of all local modules among some, and of those that they import.

    Parameters
    ----------
    modules
        Names; a package is taken as a whole.

    Returns
    -------
    dict of bytes
        By path below a folder that is to be on `sys.path`, with slashes.
    """
    found: dict[str, bytes] = {}
    for name, path, _ in _sources(modules):
        *folders, last = name.split(".")
        if path.stem == "__init__":
            folders.append(last)
        with contextlib.suppress(OSError):  # it has gone meanwhile
            found["/".join((*folders, path.name))] = path.read_bytes()
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
            try:
                status = path.stat()
                source = _read(str(path), status.st_mtime_ns, status.st_size)
            except OSError:  # an editor's lock, or a file that may not be read
                continue
            yield name, path, source
            waiting += source.imports


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield names and files of a top-level module or package if it is the user's own."""
    cwd, search_path = os.getcwd(), tuple(sys.path)  # noqa: PTH109 - as `LocalModules` has it
    if package in sys.builtin_module_names or package in editables(search_path).names:
        return
    if _is_pythons_here(package, cwd, search_path):
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
                hidden = any("." in part for part in parts)  # nobody could import it
                if not hidden and not is_installed(str(path)):
                    inner = (part for part in parts if part != "__init__")
                    yield ".".join((package, *inner)), path


def _is_pythons_here(name: str, cwd: str, search_path: tuple[str, ...]) -> bool:
    """Tell whether a name means Python's own module here, whatever file has that name too."""
    imported = sys.modules.get(name)
    if name not in sys.stdlib_module_names or imported is None:
        return False
    origin = getattr(imported, "__file__", None)
    return origin is None or not _is_the_users(origin, cwd, search_path)


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
