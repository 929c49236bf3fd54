"""What a Ray job's `runtime_env` asks for, and who sees to it: Ray, or whoever starts its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyte_jupyter.engines import package_sources as sources
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import EngineError

_BY_RAY = ("env_vars", "working_dir", "py_modules", "excludes", "config")
_PACKAGES = ("pip", "uv")


def check(runtime_env: Any) -> None:
    """See that a `runtime_env` can be understood.

    Raises
    ------
    EngineError
        It cannot.
    """
    if runtime_env is not None and not isinstance(runtime_env, dict):
        raise EngineError(
            "runtime_env must be a dictionary", seen=f"it is a {type(runtime_env).__name__}"
        )
    variables = (runtime_env or {}).get("env_vars") or {}
    if not all(isinstance(text, str) for pair in variables.items() for text in pair):
        raise EngineError("runtime_env['env_vars'] must map names to texts")
    for module in (runtime_env or {}).get("py_modules") or ():
        if not isinstance(module, str):
            raise EngineError(
                "runtime_env['py_modules'] must be paths",
                seen=f"one is a {type(module).__name__}",
                fix="Modules beside the notebook reach the workers without being named.",
            )
    packages(runtime_env)


def for_ray(runtime_env: Mapping[str, Any] | None, *, elsewhere: bool) -> dict[str, Any]:
    """Return what Ray itself is given.

    Parameters
    ----------
    runtime_env
        What the config has.
    elsewhere
        Whether the nodes are somebody else's: Ray installs packages on them then.
    """
    keys = (*_BY_RAY, *_PACKAGES, "conda") if elsewhere else _BY_RAY
    given = {key: value for key, value in (runtime_env or {}).items() if key in keys}
    if given.get("working_dir"):
        given["working_dir"] = _absolute(given["working_dir"])
    if given.get("py_modules"):
        given["py_modules"] = [_absolute(module) for module in given["py_modules"]]
    return given


def _absolute(path: Any) -> str:
    """Return a path that means the same wherever the driver works by then; a URI as it is."""
    return str(path) if "://" in str(path) else str(Path(path).expanduser().resolve())


def packages(runtime_env: Mapping[str, Any] | None) -> tuple[PackageLayer, ...]:
    """Return the packages that it asks for.

    Raises
    ------
    EngineError
        They are no list, no file, and no dictionary that has them.
    """
    layers = []
    for key in _PACKAGES:
        asked = (runtime_env or {}).get(key)
        if isinstance(asked, dict):
            asked = asked.get("packages")
        if asked is None:
            continue
        origin = f"runtime_env[{key!r}]"
        if isinstance(asked, (str, Path)):
            file = Path(asked).resolve()
            if not file.is_file():
                raise EngineError(f"{origin} is no file", seen=str(asked))
            content = sources.stamps((), [str(file)])
            layers.append(PackageLayer(origin, files=(str(file),), content=content))
        elif isinstance(asked, list) and all(isinstance(line, str) for line in asked):
            named = tuple(map(sources.absolute, asked))
            layers.append(PackageLayer(origin, named, content=sources.stamps(named)))
        else:
            raise EngineError(f"{origin} must be a list of packages", seen=repr(asked))
    return tuple(layers)


def remarks(runtime_env: Mapping[str, Any] | None) -> list[str]:
    """Say what holds for remote functions and not for the cell."""
    if not (runtime_env or {}).get("working_dir"):
        return []
    return [
        "remote functions work in runtime_env.working_dir and the cell itself, which can import "
        "from it, in the notebook's folder"
    ]


def ignored(runtime_env: Mapping[str, Any] | None, *, elsewhere: bool) -> dict[str, str]:
    """Return what nobody sees to, with the reason."""
    known = {*for_ray(runtime_env, elsewhere=elsewhere), *_PACKAGES}
    return {
        f"runtime_env.{key}": "workers run in the notebook's own Python environment"
        for key in runtime_env or {}
        if key not in known
    }
