"""Finding engines: entry points of the group ``flyte_jupyter.engines``.

Anybody's package may add one; it is looked up by the type of the plugin config, as Flyte's own
`TaskPluginRegistry` does. A broken one is skipped with a warning: it must not take the working
ones with it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import warnings

from flyte_jupyter.engines.engine import Engine
from flyte_jupyter.errors import EngineError

GROUP = "flyte_jupyter.engines"


@functools.cache
def engines() -> dict[str, Engine]:
    """Return every installed engine by name."""
    found: dict[str, Engine] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            engine: Engine = point.load()()
            found[engine.name] = engine
        except Exception as error:  # noqa: BLE001 - somebody else's code must not spread
            warnings.warn(
                f"flyte-jupyter engine {point.name!r} ({point.value}) is skipped: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
    return found


def register(engine: Engine) -> None:
    """Add an engine that no package brings, in the place of one of that name."""
    engines()[engine.name] = engine


def engine_named(name: str) -> Engine:
    """Return the engine called `name`.

    Raises
    ------
    EngineError
        There is none of that name.
    """
    if name in engines():
        return engines()[name]
    close = difflib.get_close_matches(name, engines(), n=1)
    known = ", ".join(sorted(engines()))
    raise EngineError(
        f"no engine is called {name!r}",
        seen=f"installed are {known}",
        fix=f"Did you mean {close[0]!r}?" if close else "",
    )


def engine_for(config: object) -> Engine:
    """Return the engine that a plugin config asks for; None asks for the plain one.

    Raises
    ------
    EngineError
        No installed engine knows configs of this type.
    """
    if config is None:
        return engine_named("plain")
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(config).__mro__]
    for kind in kinds:  # its own type before those that it derives from
        for engine in engines().values():
            if _matches(engine.config_type, kind):
                return engine
    raise EngineError(
        f"no engine runs a {type(config).__name__} config",
        seen=f"its type is {kinds[0]}; installed engines are {', '.join(sorted(engines()))}",
        fix="An engine is added by a package with an entry point in the group "
        f"{GROUP!r} whose config_type is that name.",
    )


def _matches(config_type: str, kind: str) -> bool:
    """Compare without importing; plugins define their classes in a submodule of the package."""
    if not config_type:
        return False
    package, _, name = config_type.rpartition(".")
    return kind == config_type or (kind.startswith(package + ".") and kind.endswith("." + name))
