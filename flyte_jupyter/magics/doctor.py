"""``%flyte doctor``: what this machine has, and the command that installs what it lacks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator

import psutil

from flyte_jupyter.backends.local import runtime_folder
from flyte_jupyter.backends.local.packages.pip import has_pip
from flyte_jupyter.cells.sizes import human_size
from flyte_jupyter.driver.values.segments import memfd_supported
from flyte_jupyter.engines.registry import engines
from flyte_jupyter.errors import EngineError
from flyte_jupyter.sessions import Session

_OK, _MISSING = "ok", "!"
_PACKAGES = {
    "flyte": "pip install 'flyte>=2.12,<3'",
    "ipykernel": "pip install ipykernel",
    "ipywidgets": "pip install ipywidgets",
    **{
        package: f"pip install 'flyte-jupyter[{extra}]'"
        for extra, packages in {
            "dask": ("distributed", "flyteplugins-dask"),
            "ray": ("ray", "flyteplugins-ray"),
            "spark": ("pyspark", "flyteplugins-spark"),
            "pytorch": ("torch", "flyteplugins-pytorch"),
            "connectors": ("grpcio", "grpcio-health-checking", "httpx"),
        }.items()
        for package in packages
    },
    "jupyter-server-proxy": "pip install jupyter-server-proxy, for dashboards behind JupyterHub",
}


def examine(session: Session) -> list[tuple[str, str, str]]:
    """Return a row for each check: what, whether it is well, what was found or is to be done."""
    return [*_platform(), *_packages(), *_folders(), *_engines(session)]


def _platform() -> Iterator[tuple[str, str, str]]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield "Python", _OK, version
    if sys.platform == "linux":
        yield "platform", _OK, "linux"
    elif sys.platform == "darwin":
        yield "platform", _OK, "macOS: members are spawned, values cross in files"
    else:
        yield "platform", _MISSING, f"{sys.platform}: run Jupyter inside WSL 2"
    memory = human_size(psutil.virtual_memory().available)
    yield "machine", _OK, f"{os.cpu_count()} cores, {memory} of memory free"
    if memfd_supported():
        yield "shared memory", _OK, "anonymous, mapped copy-on-write"
    else:
        yield "shared memory", _OK, "files in the private folder"


def _packages() -> Iterator[tuple[str, str, str]]:
    for package, fix in _PACKAGES.items():
        try:
            yield package, _OK, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, _MISSING, f"not installed: {fix}"
    if importlib.util.find_spec("pyspark") is not None:
        yield _java()


def _java() -> tuple[str, str, str]:
    from flyte_jupyter.engines.spark.java import find_java

    try:
        found = find_java()
    except EngineError as error:
        return "Java", _MISSING, " ".join(str(error).split())
    return "Java", _OK, f"{found.version}: {found.path}"


def _folders() -> Iterator[tuple[str, str, str]]:
    try:
        yield "runtime folder", _OK, str(runtime_folder.parent())
    except OSError as error:
        yield "runtime folder", _MISSING, str(error)
    yield _images()


def _images() -> tuple[str, str, str]:
    if has_pip():
        return "packages of images", _OK, "installed by pip"
    return "packages of images", _MISSING, "no pip 22.3 or later here; Python's own is tried"


def _engines(session: Session) -> Iterator[tuple[str, str, str]]:
    yield "engines", _OK, ", ".join(sorted(engines()))
    up = [c.name for c in session.clusters.values() if c.state in ("starting", "ready")]
    yield "clusters up", _OK, ", ".join(up) or "none"
