"""A job's `runtime_env` in its driver: Ray gives it to workers alone.

On Kubernetes the driver is started in it, as workers are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flyte_jupyter.engines.package_sources import stamps


def use_here(runtime_env: Mapping[str, Any]) -> None:
    """Have this process the variables of a `runtime_env`, and import what its workers import.

    The folder that it works in stays the notebook's.
    """
    for name, value in (runtime_env.get("env_vars") or {}).items():
        os.environ[name] = os.path.expandvars(value)  # as Ray's workers do
    for path in reversed([*_import_paths(runtime_env)]):
        if path not in sys.path:
            sys.path.insert(0, path)


def stamp(runtime_env: Mapping[str, Any]) -> str:
    """Return what tells that code which workers have copies of has changed; "" if there is none."""
    try:
        return stamps(local_paths(runtime_env))
    except OSError:  # a file has just gone
        return ""


def local_paths(runtime_env: Mapping[str, Any]) -> list[str]:
    """Return the files and folders of this machine that workers have copies of."""
    named = [runtime_env.get("working_dir"), *(runtime_env.get("py_modules") or ())]
    paths = [path for path in named if isinstance(path, str) and "://" not in path]
    return [path for path in paths if os.path.exists(path)]  # noqa: PTH110 - as text


def _import_paths(runtime_env: Mapping[str, Any]) -> Iterator[str]:
    for path in local_paths(runtime_env):
        is_package = path != runtime_env.get("working_dir") and Path(path).is_dir()
        yield str(Path(path).parent) if is_package else path
