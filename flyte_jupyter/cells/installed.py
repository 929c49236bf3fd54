"""Tell the user's own files from installed ones.

Installed code is in the driver's image too and is imported there; a notebook's own files are not.
A package installed in editable mode lies among the user's files but counts as installed, because
whoever installed it here installs it there.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_SITE_FOLDERS = frozenset({"site-packages", "dist-packages"})


class Editables(NamedTuple):
    """What is installed in editable mode: names of top-level modules, and whole source folders."""

    names: frozenset[str]
    folders: tuple[str, ...]


def lies_under(path: str, folders: tuple[str, ...]) -> bool:
    """Tell whether a path is one of these folders or inside one; all of them resolved."""
    return any(
        path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders
    )


def is_installed(path: str) -> bool:
    """Tell whether a path belongs to Python or to an environment's packages."""
    return not _SITE_FOLDERS.isdisjoint(Path(path).parts) or lies_under(path, _prefix_folders())


@functools.lru_cache(maxsize=8)
def user_folders(cwd: str, search_path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders in which the user's own modules can lie: cwd and part of `sys.path`."""
    folders = [os.path.realpath(entry or cwd) for entry in (cwd, *search_path)]
    return tuple(dict.fromkeys(folder for folder in folders if not is_installed(folder)))


@functools.lru_cache(maxsize=8)
def editables(search_path: tuple[str, ...]) -> Editables:
    """Return what is installed in editable mode in the environments of a `sys.path`.

    A distribution says so in `direct_url.json` (PEP 610). What it provides is named by its
    `top_level.txt`, by the mapping of a setuptools `__editable__` finder, by its own name, and by
    a `.pth` file that points below its project folder (a `src` layout), where all is its own.
    """
    names: set[str] = set()
    folders: list[str] = []
    for entry in search_path:
        if not _SITE_FOLDERS.isdisjoint(Path(entry).parts):
            projects = _editable_projects(Path(entry), names)
            if projects:
                folders += _source_folders(Path(entry), projects)
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        names.update(getattr(module, "MAPPING", ()) if "__editable__" in str(module) else ())
    return Editables(frozenset(names), tuple(dict.fromkeys(folders)))


@functools.cache
def _prefix_folders() -> tuple[str, ...]:
    """Not whole prefixes: with a prefix of /usr, a project in /usr/src is the user's."""
    paths = sysconfig.get_paths()
    libraries = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix):
        libraries += [f"{prefix}/{part}" for part in ("bin", "lib", "lib64", "share")]
    return tuple(dict.fromkeys(os.path.realpath(library) for library in libraries))


def _editable_projects(site: Path, names: set[str]) -> tuple[str, ...]:
    """Return the project folders of a site's editable distributions, adding what they provide."""
    projects = []
    for record in site.glob("*.dist-info/direct_url.json"):
        try:
            origin = json.loads(record.read_text())
            top_level = record.with_name("top_level.txt")
            provided = top_level.read_text().split() if top_level.is_file() else []
        except (OSError, ValueError):
            continue
        if not origin.get("dir_info", {}).get("editable"):
            continue
        projects.append(os.path.realpath(unquote(origin["url"].removeprefix("file://"))))
        names.update(provided)
        names.add(record.parent.name.partition("-")[0].replace(".", "_").lower())
    return tuple(projects)


def _source_folders(site: Path, projects: tuple[str, ...]) -> list[str]:
    """Return folders strictly inside a project that a `.pth` file puts on the path."""
    folders = []
    for pth in site.glob("*.pth"):
        try:
            lines = pth.read_text().splitlines()
        except (OSError, ValueError):
            continue
        resolved = [os.path.realpath(line) for line in lines if line.startswith(os.sep)]
        folders += [
            line for line in resolved if line not in projects and lies_under(line, projects)
        ]
    return folders
