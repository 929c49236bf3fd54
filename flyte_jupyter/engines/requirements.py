"""What an engine needs installed, and the one line that says what is missing."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re

from flyte_jupyter.errors import EngineError


def require(engine: str, extra: str, *modules: str) -> None:
    """See that modules can be imported, without importing them.

    Parameters
    ----------
    engine
        What users call the engine.
    extra
        Of this package, that installs them.
    modules
        Their names; a plugin of Flyte's is one of them, as ``flyteplugins.dask``.

    Raises
    ------
    EngineError
        One is not there.
    """
    for module in modules:
        if not installed(module):
            raise EngineError(
                f"the {engine} engine is not installed",
                seen=f"no module named {module!r}",
                fix=f"Type: %pip install 'flyte-jupyter[{extra}]'",
            )


def installed(module: str) -> bool:
    """Tell whether a module can be imported, importing no more than its parents."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def require_version(engine: str, package: str, *least: int) -> None:
    """See that an installed package is not too old.

    Parameters
    ----------
    engine
        What users call the engine.
    package
        Its name, as module and as distribution.
    least
        The first parts of the oldest version that will do.

    Raises
    ------
    EngineError
        It is older. One that says no version, as when it was unpacked by hand, is let pass.
    """
    spec = importlib.util.find_spec(package)
    version = version_of(package, (spec and spec.origin) or "")
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[: len(least)])
    if parts and parts < least:
        oldest = ".".join(map(str, least))
        raise EngineError(
            f"the {engine} engine needs {package} {oldest} or later",
            seen=f"{package} {version} is installed",
            fix=f"Type: %pip install '{package}>={oldest}'",
        )


@functools.lru_cache(maxsize=8)
def version_of(package: str, origin: str) -> str:
    """Return the version of the package that lies at `origin`; asked before every cell."""
    del origin
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
