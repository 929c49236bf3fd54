"""The dependencies of a uv project, in the words that pip knows too."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
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
        sources = document.get("tool", {}).get("uv", {}).get("sources", {})
        self._sources = {str(canonicalize_name(name)): each for name, each in sources.items()}

    @property
    def python(self) -> str:
        """The versions of Python that it runs with; empty for any."""
        return str(self._project.get("requires-python", ""))

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
        lines = self._project.get("dependencies", ())
        return [_from_source(line, self._sources, self._folder) for line in lines]


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
