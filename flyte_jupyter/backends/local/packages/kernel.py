"""What the kernel's own environment has of what is asked for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


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
        What names no package, such as a path, counts as missing: only its installer can tell.
    """
    missing, conflicts = [], []
    for line in requirements:
        try:
            asked = Requirement(line)
        except InvalidRequirement:
            missing.append(line)
            continue
        if asked.marker is not None and not asked.marker.evaluate():
            continue
        version = version_of(asked.name)
        if version is None or asked.url:
            missing.append(line)
        elif not asked.specifier.contains(version, prereleases=True):
            conflicts.append(Conflict(line, asked.name, version))
        elif not _is_met(asked):
            missing.append(line)
    return Missing(tuple(missing), tuple(conflicts))


def _is_met(asked: Requirement, seen: frozenset[str] = frozenset()) -> bool:
    version = version_of(asked.name)
    if version is None or not asked.specifier.contains(version, prereleases=True):
        return False
    if str(asked) in seen:  # extras may name each other
        return True
    return all(_is_met(each, seen | {str(asked)}) for each in _of_extras(asked))


def _of_extras(asked: Requirement) -> Iterator[Requirement]:
    """Yield what the extras of an installed package ask for."""
    for extra in asked.extras:
        for line in importlib.metadata.requires(asked.name) or ():
            each, without = Requirement(line), {"extra": ""}
            # What holds without an extra the package needs anyway, and so has.
            marker = each.marker
            if marker and marker.evaluate({"extra": extra}) and not marker.evaluate(without):
                yield each


def name_of(line: str) -> str | None:
    """Return the normalized name of what a requirement asks for; None if it names no package."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return None


def version_of(name: str) -> str | None:
    """Return the version of an installed package; None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pins() -> dict[str, str]:
    """Return everything that is installed: versions by normalized name, the first one that counts.

    It takes some 100 ms: each package's metadata is a file of its own.
    """
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found.setdefault(canonicalize_name(name), version)
    return found
