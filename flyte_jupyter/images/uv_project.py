"""The dependencies of a uv project, in the words that pip knows too."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class NotUnderstood(Exception):
    """A project says something that only uv itself could do."""


class Project:
    """A ``pyproject.toml``.

    Parameters
    ----------
    pyproject
        Its path.
    """

    def __init__(self, pyproject: Path) -> None:
        document = tomllib.loads(pyproject.read_text())
        self._folder = pyproject.parent
        self._project: dict[str, Any] = document.get("project", {})
        self._groups: dict[str, Any] = document.get("dependency-groups", {})
        self._uv: dict[str, Any] = document.get("tool", {}).get("uv", {})
        sources = self._uv.get("sources", {})
        self._sources = {str(canonicalize_name(name)): each for name, each in sources.items()}

    @property
    def python(self) -> str:
        """The versions of Python that it runs with; empty for any."""
        return str(self._project.get("requires-python", ""))

    def indexes(self) -> tuple[str, ...]:
        """Return where its packages are looked for: first instead of PyPI, then besides.

        Those that are for packages which name them are left out: `dependencies` refuses such.
        """
        named = [each for each in self._uv.get("index", ()) if not each.get("explicit")]
        default = [each["url"] for each in named if each.get("default")]
        others = [each["url"] for each in named if not each.get("default")]
        others += self._uv.get("extra-index-url", ())
        first = next(iter(default), self._uv.get("index-url", ""))
        return (first, *others) if first or others else ()

    def dependencies(self) -> list[str]:
        """Return its dependencies, each from where `tool.uv.sources` has it.

        Raises
        ------
        NotUnderstood
            They are made when it is built, or come from where pip cannot take them.
        """
        if "dependencies" in self._project.get("dynamic", ()):
            raise NotUnderstood(
                'its dependencies are dynamic: use project_install_mode="install_project"'
            )
        return self._from_sources(self._project.get("dependencies", ()))

    def optional(self, chosen: Chosen) -> list[str]:
        """Return those of its optional dependencies that are chosen.

        Raises
        ------
        NotUnderstood
            It has none of that name, or they come from where pip cannot take them.
        """
        return self._from_sources(self._optional(chosen))

    def _from_sources(self, lines: Iterable[str]) -> list[str]:
        return [_from_source(line, self._sources, self._folder) for line in lines]

    def _optional(self, chosen: Chosen) -> Iterator[str]:
        extras: dict[str, Any] = self._project.get("optional-dependencies", {})
        for name in extras if chosen.all_extras else chosen.extras:
            yield from _of(extras, name, "extra")
        for name in self._groups if chosen.all_groups else chosen.groups:
            yield from self._group(name)

    def _group(self, name: str) -> Iterator[str]:
        for each in _of(self._groups, name, "group"):
            if isinstance(each, str):
                yield each
            else:
                yield from self._group(each["include-group"])


@dataclass
class Chosen:
    """What options of ``uv sync`` choose of a project's optional dependencies.

    Attributes
    ----------
    unknown
        The other options.
    """

    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    all_extras: bool = False
    all_groups: bool = False
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def by(cls, options: Sequence[str]) -> Chosen:
        """Read options; only those that choose are known."""
        chosen, left = cls(), [part for option in options for part in option.split("=", 1)]
        while left:
            option = left.pop(0)
            if option in ("--extra", "--group") and left:
                (chosen.extras if option == "--extra" else chosen.groups).append(left.pop(0))
            elif option == "--all-extras":
                chosen.all_extras = True
            elif option == "--all-groups":
                chosen.all_groups = True
            else:
                chosen.unknown.append(option)
        return chosen


def _of(table: Mapping[str, Any], name: str, kind: str) -> list[Any]:
    found = {canonicalize_name(each): lines for each, lines in table.items()}
    if (lines := found.get(canonicalize_name(name))) is None:
        raise NotUnderstood(f"it has no {kind} {name!r}")
    return list(lines)


def _from_source(line: str, sources: Mapping[str, Any], folder: Path) -> str:
    asked = Requirement(line)
    source = sources.get(canonicalize_name(asked.name))
    if source is None:
        return line
    if not isinstance(source, dict):
        raise NotUnderstood(f"{asked.name} has several sources")
    extras = f"[{','.join(sorted(asked.extras))}]" if asked.extras else ""
    marker = f" ; {asked.marker}" if asked.marker else ""
    return f"{asked.name}{extras} @ {_url(asked.name, source, folder)}{marker}"


def _url(name: str, source: Mapping[str, Any], folder: Path) -> str:
    if "path" in source:
        return str((folder / source["path"]).resolve().as_uri())
    if "url" in source:
        return str(source["url"])
    if "git" in source:
        at = next((source[key] for key in ("rev", "tag", "branch") if key in source), "")
        subdirectory = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
        return f"git+{source['git']}{'@' if at else ''}{at}{subdirectory}"
    # Whoever looked for it elsewhere might find somebody else's of the same name.
    raise NotUnderstood(f"{name} comes from {', '.join(source)}, which uv alone knows")
