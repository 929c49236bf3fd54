"""Completion on the lines of this package's magics: whatever is valid in that place."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flyte_jupyter.backends.backend import member_id
from flyte_jupyter.engines.engine import Option
from flyte_jupyter.errors import EnvironmentNotFound
from flyte_jupyter.images.recipe import is_image
from flyte_jupyter.sessions import Session
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.environments import Environment, declared_in, find
from flyte_jupyter.sessions.scaling import scalable_roles
from flyte_jupyter.sessions.secret_values import typed_names

_NO_ENVIRONMENT = {"runs", "doctor", "connectors", "secret"}


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
        last = words.pop()
        option, separator, _ = last.partition("=")
        if separator and option.startswith("-"):
            words.append(option)
    candidates: Iterable[str]
    if re.match(r"\s*%%flyte_task\b", line):
        candidates = _for_cell(session, words[1:])
    elif re.match(r"\s*%flyte\b", line):
        candidates = _for_verb(session, words[1:])
    else:
        return []
    return sorted({c for c in candidates if c.startswith(symbol)})


@dataclass(frozen=True)
class _Before:
    """The words before the one that is completed.

    Parameters
    ----------
    given
        Those that stand for themselves.
    options
        Each option, and the last of its values.
    awaiting
        The option whose value is to come now; empty if none is.
    """

    given: list[str]
    options: Mapping[str, str]
    awaiting: str


def _read(parser: argparse.ArgumentParser, words: list[str], more: Iterable[str] = ()) -> _Before:
    """Read words as `parser` will; `more` are options with a value that it does not know."""
    valued = {o for a in parser._actions if a.nargs != 0 for o in a.option_strings}
    valued.update(more)
    given: list[str] = []
    options: dict[str, str] = {}
    awaiting = ""
    for word in words:
        option, separator, value = word.partition("=")
        if awaiting and not word.startswith("-"):
            options[awaiting], awaiting = word, ""
        elif word.startswith("-"):
            options[option] = value
            awaiting = option if option in valued and not separator else ""
        else:
            given.append(word)
    return _Before(given, options, awaiting)


def _for_cell(session: Session, words: list[str]) -> Iterable[str]:
    from flyte_jupyter.magics.task_magic import PARSER

    before = _read(PARSER, words)
    if before.awaiting in ("-i", "--inputs", "--also"):
        return [n for n in session.namespace if not n.startswith("_")]
    options = [o for action in PARSER._actions for o in action.option_strings]
    if before.awaiting:
        return options if before.awaiting == "--bg" else []  # which can do without a name
    return [*options, *([] if before.given else environment_names(session))]


def _for_verb(session: Session, words: list[str]) -> Iterable[str]:
    from flyte_jupyter.magics.verbs import VERBS

    if not words:
        return VERBS
    name, *rest = words
    if name not in VERBS:
        return []
    parser = VERBS[name].parser(name)
    engine = _engine_options(_read(parser, rest)) if name == "env" else {}
    before = _read(parser, rest, [f"--{option}" for option in engine])
    if before.awaiting:
        return _values(session, name, before)
    options = [o for action in parser._actions for o in action.option_strings]
    options += [
        f"--{option}"
        for option, about in engine.items()
        if about.repeatable or f"--{option}" not in before.options
    ]
    return [*options, *_words_of(session, name, before.given)]


def _engine_options(before: _Before) -> Mapping[str, Option]:
    """Return what the engine takes that is named on a line of ``%flyte env``."""
    from flyte_jupyter.engines.options import options_of
    from flyte_jupyter.engines.registry import engines

    engine = engines().get(before.options.get("--plugin", ""))
    return options_of(engine) if engine else {}


def _values(session: Session, verb: str, before: _Before) -> Iterable[str]:
    """Return values of the option that awaits one."""
    from flyte_jupyter.engines.registry import engines

    if (verb, before.awaiting) == ("env", "--plugin"):
        return engines()
    if (verb, before.awaiting) == ("build", "--builder"):
        return ["local", "local-podman", "remote"]
    if (verb, before.awaiting) == ("scale", "--group") and before.given:
        cluster = _cluster(session, before.given[0])
        return [r.name for r in scalable_roles(cluster.spec)] if cluster and cluster.running else []
    return []


def _words_of(session: Session, verb: str, given: list[str]) -> Iterable[str]:
    """Return what may stand in the next place that is no option's."""
    if verb in _NO_ENVIRONMENT:
        if verb == "secret" and not given:
            declared = [value for _, value in declared_in(session.namespace)]
            return [name for each in declared for name in typed_names(Environment.of(each))]
        if verb != "connectors" or len(given) > 1 or (given and given[0] != "show"):
            return []
        return _tasks(session) if given else ["show", "serve", "stop"]
    runs = [run.id for run in session.runs] if verb == "logs" else []
    images = [n for n, v in session.namespace.items() if is_image(v)] if verb == "build" else []
    if not given:
        return [*environment_names(session), *runs, *images]
    if verb == "logs" and len(given) == 1 and given[0] not in runs:
        cluster = _cluster(session, given[0])
        members = cluster.members() if cluster else []
        return [word for m in members for word in (m["role"], member_id(m["role"], m["index"]))]
    return []


def _cluster(session: Session, name: str) -> Cluster | None:
    """Return the cluster of an environment, unless there is none that could be asked."""
    try:
        declared = find(name, session.namespace, session.declared)
    except EnvironmentNotFound:
        return None
    cluster = session.clusters.get(declared.name)
    return cluster if cluster and cluster.state in ("starting", "ready", "stopping") else None


def _tasks(session: Session) -> list[str]:
    template = getattr(sys.modules.get("flyte.extend"), "TaskTemplate", ())
    return [name for name, value in session.namespace.items() if isinstance(value, template)]


def environment_names(session: Session) -> list[str]:
    """Return variables and names of all environments that can be named."""
    names = set(session.declared)
    for variable, value in declared_in(session.namespace):
        names |= {variable, value.name}
    return sorted(names)
