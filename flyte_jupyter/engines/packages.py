"""Packages that the processes of a cluster have beyond those of the notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PackageLayer:
    """What one step of an image installs, in the terms that pip and uv share.

    Parameters
    ----------
    origin
        Where it was asked for, for messages: ``image "training"``.
    requirements
        As on pip's command line: PEP 508, paths, and addresses of archives and repositories.
    files
        Requirement files, by absolute path.
    indexes
        Where to look: the address of the main index, empty for the configured one, and those of
        further ones. They may hold passwords.
    arguments
        Further words of the command line; they, too, may hold passwords.
    content
        A digest of what files it installs from held when it was read; empty if there are none.
    """

    origin: str
    requirements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    indexes: tuple[str, ...] = field(default=(), repr=False)
    arguments: tuple[str, ...] = field(default=(), repr=False)
    content: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PackageLayer:
        """Rebuild a layer from its fields."""
        lists = {key: tuple(data[key]) for key in ("requirements", "files", "indexes", "arguments")}
        return cls(**{**data, **lists})
