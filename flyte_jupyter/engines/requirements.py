"""What an engine needs installed, and the one line that says what is missing."""

from __future__ import annotations

import importlib.util

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
