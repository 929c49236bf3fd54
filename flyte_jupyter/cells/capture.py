"""Choose the values that travel with a cell, and tell what they are."""

from __future__ import annotations

import builtins
import difflib
import re
import sys
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING

from flyte_jupyter.cells.local_modules import is_local_name
from flyte_jupyter.cells.strings import is_table
from flyte_jupyter.errors import CaptureError
from flyte_jupyter.secret_names import has_password, holds_secret

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from flyte_jupyter.cells.names import CellNames

_HISTORY = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_ih|_oh|_dh")
_HISTORY_LISTS = {"In": "_ih", "Out": "_oh"}
_SHELL_NAMES = frozenset({"exit", "quit", "get_ipython", "open", "display"})
_SHELL_PACKAGES = frozenset({"IPython", "ipykernel", "_sitebuiltins"})


@dataclass(frozen=True)
class Capture:
    """What a cell takes along.

    Parameters
    ----------
    values
        Name to value, in the order in which the cell reads them.
    missing
        Names that the cell reads and that neither the notebook nor Python has: unless the cell
        binds them first, it will raise a `NameError`.
    """

    values: dict[str, object]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of `--capture`.

    Parameters
    ----------
    name
        The variable.
    type_name
        Its type, as short as it stays unmistakable: `pandas.DataFrame`.
    size
        Bytes that travel.
    travels
        How: `value`, `ref`, `import numpy`, `function by value` and so on.
    """

    name: str
    type_name: str
    size: int
    travels: str


def capture(
    names: CellNames,
    namespace: Mapping[str, object],
    *,
    only: Sequence[str] | None = None,
    extra: Iterable[str] = (),
) -> Capture:
    """Choose the inputs of a cell.

    Parameters
    ----------
    names
        What analysis found.
    namespace
        The notebook's variables.
    only
        The names of `-i`, which replace those found by analysis; None without `-i`.
    extra
        Names to take along besides, which are as explicit as those of `-i`.

    Raises
    ------
    CaptureError
        An explicit name is missing, or a value looks like a secret and was not asked for.
    """
    explicit = dict.fromkeys((*(only or ()), *extra))
    for name in explicit:
        if name not in namespace:
            option = "-i" if name in (only or ()) else "--also"
            raise _no_such_variable(f"{option} {name}", name, namespace)
    values: dict[str, object] = {}
    missing = []
    found = (*names.reads, *_mentioned(names, namespace)) if only is None else ()
    for name in dict.fromkeys((*found, *explicit)):
        if name not in namespace:
            if not hasattr(builtins, name):
                missing.append(name)
        elif name in explicit:
            values[name] = namespace[name]
        elif not _is_the_shells(name, namespace):
            if holds_secret(name, namespace[name]):
                raise _secret(name, namespace[name])
            values[name] = namespace[name]
    return Capture(values, tuple(missing))


def _mentioned(names: CellNames, namespace: Mapping[str, object]) -> Iterator[str]:
    """Yield the names in strings of a cell that the notebook has."""
    there = namespace.keys() - names.binds
    for name in names.mentioned.names:
        if name in there:
            yield name
    for name in names.mentioned.tables:
        if name in there and is_table(namespace[name]):
            yield name


def describe(
    captured: Capture, sizes: Mapping[str, int], refs: Collection[str] = ()
) -> tuple[Row, ...]:
    """Tabulate what travels, for `--capture`.

    Parameters
    ----------
    captured
        The chosen values.
    sizes
        Bytes of each value as it is pickled; a name without one counts 0.
    refs
        Names whose values stay in a driver and travel as handles.
    """
    return tuple(
        Row(
            name=name,
            type_name=_type_name(type(value)),
            size=sizes.get(name, 0),
            travels="ref" if name in refs else _way(value),
        )
        for name, value in captured.values.items()
    )


def _no_such_variable(what: str, name: str, namespace: Mapping[str, object]) -> CaptureError:
    candidates = [known for known in namespace if not known.startswith("_")]
    close = difflib.get_close_matches(name, candidates, n=1)
    fix = f"Did you mean `{close[0]}`?" if close else ""
    return CaptureError(what, seen="the notebook has no variable of that name", fix=fix)


def _secret(name: str, value: object) -> CaptureError:
    url = has_password(value)
    return CaptureError(
        f"`{name}` was not sent",
        seen="it is a URL with a password" if url else "its name says that it holds a secret",
        fix=f"Send it on purpose with `--also {name}`, "
        "or declare a `flyte.Secret` in the environment",
    )


def _is_the_shells(name: str, namespace: Mapping[str, object]) -> bool:
    """Tell whether a name is one that IPython put there, not the user."""
    value = namespace[name]
    if name in _HISTORY_LISTS:
        history = _HISTORY_LISTS[name]
        return history not in namespace or value is namespace[history]
    if name in _SHELL_NAMES:
        scope: dict[str, object] = getattr(value, "__globals__", {})  # `open` hides its module
        makers = (type(value).__module__, getattr(value, "__module__", ""), scope.get("__name__"))
        return any(str(maker).partition(".")[0] in _SHELL_PACKAGES for maker in makers)
    return _HISTORY.fullmatch(name) is not None


def _type_name(kind: type) -> str:
    """Name a type by its package alone where the package offers it: `pandas.DataFrame`."""
    module, name = kind.__module__, kind.__qualname__
    if module == "builtins":
        return name
    package = module.partition(".")[0]
    public = vars(sys.modules[package]).get(name) if package in sys.modules else None
    return f"{package if public is kind else module}.{name}"


def _way(value: object) -> str:
    if isinstance(value, ModuleType):
        return "module by value" if is_local_name(value.__name__) else f"import {value.__name__}"
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        module = value.__module__ or ""
        kind = "class" if isinstance(value, type) else "function"
        if not _importable(module, value.__qualname__, value) or is_local_name(module):
            return f"{kind} by value"
        return f"import {module}.{value.__qualname__}"
    return "value"


def _importable(module: str, qualname: str, value: object) -> bool:
    found: object = sys.modules.get(module)
    if found is None or module == "__main__":
        return False
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is value
