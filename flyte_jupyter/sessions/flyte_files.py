"""Files that Flyte's values refer to: whether they are still what they were, without reading them.

A `File`, a `Dir` or a written `DataFrame` is a path. What lies there may be edited, or go with the
cluster that wrote it, and the value is the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def is_reference(value: object) -> bool:
    """Tell whether a value is one of Flyte's that refer to files."""
    flyte_io = sys.modules.get("flyte.io")
    if flyte_io is None:
        return False
    return isinstance(value, (flyte_io.File, flyte_io.Dir, flyte_io.DataFrame))


def path_of(reference: Any) -> str:
    """Return the path on this machine to which a value refers; empty if there is none."""
    if hasattr(reference, "path"):
        path = reference.path
    else:
        path = reference.uri or getattr(reference.literal, "uri", "")
    path = (path or "").removeprefix("file://")
    return "" if "://" in path else path


def stamp(path: str) -> str:
    """Return what tells a file, or a folder with all below it, from others; empty for nothing.

    It is their names, their sizes, and when they were last changed: what was edited is another.
    """
    root = Path(path)
    try:
        if not root.exists():
            return ""
        found = sorted(_seen(root, each) for each in (root, *root.rglob("*")) if each.is_file())
    except OSError:  # it goes meanwhile, or may not be read
        return ""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _seen(root: Path, file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.relative_to(root)), status.st_mtime_ns, status.st_size
