"""What the kernel's own environment has of what is asked for."""

from __future__ import annotations

import importlib.metadata
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Conflict:
    """A package that the kernel has in a version that will not do."""

    asked: str
    name: str
    has: str

    def __str__(self) -> str:
        return f"{self.asked} is asked for, the kernel has {self.name} {self.has}"


@dataclass(frozen=True)
class Missing:
    """What is to be installed, and what cannot be because the kernel has another version."""

    requirements: tuple[str, ...]
    conflicts: tuple[Conflict, ...]


def compare(requirements: Iterable[str]) -> Missing:
    """Compare requirements with what is installed where this process runs.

    Parameters
    ----------
    requirements
        As on pip's command line.

    Returns
    -------
    Missing
        What names no package counts as missing, unless it is a project that is installed here.
    """
    missing, conflicts = [], []
    for line in requirements:
        try:
            asked = Requirement(line)
        except InvalidRequirement:
            if not _is_installed_project(line):
                missing.append(line)
            continue
        if asked.marker is not None and not asked.marker.evaluate():
            continue
        version = version_of(asked.name)
        if version is None or asked.url:
            missing.append(line)
        elif not _contains(asked, version):
            conflicts.append(Conflict(line, asked.name, version))
        elif not _is_met(asked):
            missing.append(line)
    return Missing(tuple(missing), tuple(conflicts))


def _contains(asked: Requirement, version: str) -> bool:
    try:
        return asked.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # of a system's own package: it cannot be compared


def _is_met(asked: Requirement, seen: frozenset[str] = frozenset()) -> bool:
    version = version_of(asked.name)
    if version is None or not _contains(asked, version):
        return False
    if str(asked) in seen:  # extras may name each other
        return True
    return all(_is_met(each, seen | {str(asked)}) for each in _of_extras(asked))


def _of_extras(asked: Requirement) -> Iterator[Requirement]:
    """Yield what the extras of an installed package ask for."""
    for extra in asked.extras:
        for line in importlib.metadata.requires(asked.name) or ():
            try:
                each = Requirement(line)
            except InvalidRequirement:
                continue
            # What holds without an extra the package needs anyway, and so has.
            marker, without = each.marker, {"extra": ""}
            if marker and marker.evaluate({"extra": extra}) and not marker.evaluate(without):
                yield each


def _is_installed_project(line: str) -> bool:
    """Whether the kernel works with a project where it lies, as an editable install does."""
    name = name_of(line)
    try:
        text = importlib.metadata.distribution(name or "").read_text("direct_url.json")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return f'"{Path(line).resolve().as_uri()}"' in (text or "")


def name_of(line: str) -> str | None:
    """Return the normalized name of what a requirement asks for; None if nothing tells it."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        pass
    path = Path(line)
    if path.suffix == ".whl":
        return canonicalize_name(path.name.partition("-")[0])
    try:
        project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
        return canonicalize_name(project["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def version_of(name: str) -> str | None:
    """Return the version of an installed package; None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pins(path: list[str] | None = None) -> dict[str, str]:
    """Return what is installed: versions by normalized name, the first one that counts.

    For a whole environment it takes some 100 ms: each package's metadata is a file of its own.

    Parameters
    ----------
    path
        Folders to look in; those of this process by default.
    """
    found: dict[str, str] = {}
    everywhere = sys.path if path is None else path
    for distribution in importlib.metadata.distributions(path=everywhere):
        name, version = distribution.metadata["Name"], distribution.version
        try:
            Version(version)
        except (InvalidVersion, TypeError):
            continue  # of a system's own package: pip would not understand it either
        if name:
            found.setdefault(canonicalize_name(name), version)
    return found


def folders() -> list[str]:
    """Return the folders in which this process finds installed packages."""
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    own |= {str(Path(folder, "lib-dynload")) for folder in own if folder}
    return [each for each in sys.path if each and Path(each).is_dir() and each not in own]


def modules() -> set[str]:
    """Return the names of modules and packages that Python and what is installed have."""
    return {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}
