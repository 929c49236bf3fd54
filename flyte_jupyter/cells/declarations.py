"""Tasks and environments that a local module declares, when that module is reloaded.

A reload makes others of the same names. Whoever imported the old ones is to have the new: they stay
the objects that they are, as IPython has it for functions and classes, and take over what is new.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def declared_by(module: ModuleType) -> dict[str, Any]:
    """Return the Flyte tasks and environments among a module's variables."""
    kinds = _kinds()
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds)}


def take_over(before: Mapping[str, Any], module: ModuleType) -> None:
    """Have tasks and environments of before a reload become those of after it.

    Parameters
    ----------
    before
        What `declared_by` returned before.
    module
        The module, which has been reloaded.
    """
    now = declared_by(module)
    pairs = _pairs(before, now)
    kept = {id(new): old for old, new in pairs}
    for old, new in pairs:
        _become(old, new)
    for name, value in now.items():
        vars(module)[name] = kept.get(id(value), value)
        _refer_to(kept, vars(module)[name])


def _kinds() -> tuple[type, ...]:
    flyte = sys.modules.get("flyte")
    if flyte is None:
        return ()
    from flyte.extend import TaskTemplate

    return TaskTemplate, flyte.Environment


def _pairs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Pair what had a name before with what has it now, each once."""
    pairs: dict[int, tuple[Any, Any]] = {}
    taken: set[int] = set()
    for name, new in now.items():
        old = before.get(name)
        if old is new or id(new) in pairs or id(old) in taken:
            continue
        if any(isinstance(old, kind) and isinstance(new, kind) for kind in _kinds()):
            pairs[id(new)] = old, new
            taken.add(id(old))
    return list(pairs.values())


def _become(old: Any, new: Any) -> None:
    tasks = dict(getattr(old, "tasks", {}))
    old.__class__ = type(new)
    vars(old).clear()
    vars(old).update(vars(new))
    if tasks:  # the notebook may have added some of its own
        new.tasks.update({**tasks, **new.tasks})


def _refer_to(kept: Mapping[int, Any], declared: Any) -> None:
    """Have an environment, and the tasks that it has now, know what was kept."""
    if not hasattr(declared, "depends_on"):
        return
    declared.depends_on = [kept.get(id(each), each) for each in declared.depends_on]
    tasks = getattr(declared, "tasks", {})
    for name, task in tasks.items():
        tasks[name] = kept.get(id(task), task)
        tasks[name].parent_env = weakref.ref(declared)
