"""Files that packages are installed from, and telling whether they have changed.

They are told by size and time and not read: this is asked before each cell.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_BUILT_FROM = {".py", ".pyi", ".toml", ".cfg", ".pyx", ".c", ".cc", ".cpp", ".h", ".rs"}
_NOT_BUILT_FROM = {"__pycache__", "build", "dist", "node_modules"}
_INCLUDED = re.compile(r"(?:-r|-c|--requirement|--constraint)[ =]*(\S+)")


def absolute(requirement: str) -> str:
    """Return a requirement that means the same in whatever folder it is read."""
    path = _path_of(requirement)
    if path is None or "://" in requirement:
        return requirement
    extras = requirement.partition("[")[2]
    return f"{path.resolve()}[{extras}" if extras else str(path.resolve())


def stamps(requirements: Iterable[str], files: Iterable[str] = ()) -> str:
    """Return a digest by which to tell that what is installed from has changed.

    Parameters
    ----------
    requirements
        Requirements; those that are paths, of archives, projects or folders of archives, count.
    files
        Files of requirements. What they include counts too.

    Returns
    -------
    str
        Empty if there is no file among all that.
    """
    paths = {each for line in requirements if (path := _path_of(line)) for each in _files(path)}
    for file in files:
        paths |= set(_included(Path(file)))
    digest = hashlib.sha256()
    for path in sorted(paths):
        about = path.stat()
        digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest() if paths else ""


def _path_of(requirement: str) -> Path | None:
    """Return the file or folder that a requirement names; None if it names a package."""
    text = requirement.strip()
    if "file://" in text:
        text = text.partition("file://")[2]
    elif "://" in text:
        return None
    text = re.split(r"[\[;#]", text)[0].strip()
    if os.sep not in text and text != ".":
        return None  # a package, although a folder may be called like it
    path = Path(text)
    return path if path.exists() else None


def _files(path: Path) -> Iterator[Path]:
    """Yield what something is built from; of a project not what building leaves there."""
    if path.is_file():
        yield path
        return
    for entry in path.iterdir():
        name = entry.name
        if entry.is_symlink() or name.startswith(".") or name in _NOT_BUILT_FROM:
            continue
        if entry.is_dir():
            if not (entry / "pyvenv.cfg").exists() and not name.endswith(".egg-info"):
                yield from _files(entry)
        elif entry.suffix in _BUILT_FROM or entry.suffix == ".whl":
            yield entry


def _included(file: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield a file of requirements, and those that it names."""
    if file in seen or not file.is_file():
        return
    yield file
    for line in file.read_text().splitlines():
        if found := _INCLUDED.match(line.strip()):
            yield from _included(file.parent / found[1], seen | {file})
