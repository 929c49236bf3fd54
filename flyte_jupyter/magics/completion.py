"""Completion of verbs, environments and options on the lines of this package's magics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flyte_jupyter.sessions import Session
from flyte_jupyter.sessions.environments import declared_in


def completions(session: Session, line: str, symbol: str) -> list[str]:
    """Return what `symbol`, the last word of `line`, can become.

    Parameters
    ----------
    session
        Whose environments and runs.
    line
        The line up to the cursor.
    symbol
        The word under it.
    """
    words = line.split()
    if words and not line.endswith(" "):
        words = words[:-1]
    candidates: Iterable[str]
    if re.match(r"\s*%%flyte_task\b", line):
        candidates = _for_cell(session, words[1:])
    elif re.match(r"\s*%flyte\b", line):
        candidates = _for_verb(session, words[1:])
    else:
        return []
    return sorted({c for c in candidates if c.startswith(symbol)})


def _for_cell(session: Session, before: list[str]) -> Iterable[str]:
    from flyte_jupyter.magics.task_magic import PARSER

    if before and before[-1] in ("-i", "--inputs"):
        return [n for n in session.namespace if not n.startswith("_")]
    options = [o for action in PARSER._actions for o in action.option_strings]
    return [*options, *([] if _has_positional(before) else environment_names(session))]


def _for_verb(session: Session, before: list[str]) -> Iterable[str]:
    from flyte_jupyter.engines.registry import engines
    from flyte_jupyter.magics.verbs import VERBS

    if not before:
        return VERBS
    name, *rest = before
    if name not in VERBS:
        return []
    if rest and rest[-1] == "--plugin":
        return engines()
    options = [o for action in VERBS[name].parser(name)._actions for o in action.option_strings]
    if name in {"runs", "doctor"} or _has_positional(rest):
        return options
    runs = [run.id for run in session.runs] if name == "logs" else []
    return [*options, *environment_names(session), *runs]


def environment_names(session: Session) -> list[str]:
    """Return variables and names of all environments that can be named."""
    names = set(session.declared)
    for variable, value in declared_in(session.namespace):
        names |= {variable, value.name}
    return sorted(names)


def _has_positional(words: list[str]) -> bool:
    return any(not word.startswith("-") for word in words)
