"""``%flyte VERB``: one magic for everything beside running cells."""

from __future__ import annotations

import difflib
import shlex
from typing import Any

from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions import Session


def help_text() -> str:
    """Return the list of verbs."""
    from flyte_jupyter.magics.verbs import VERBS

    width = max(map(len, VERBS))
    lines = [f"  %flyte {name.ljust(width)}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(["%flyte VERB, each with --help:", *lines])


def run(session: Session, line: str) -> Any:
    """Do what a line says and return what to display.

    Raises
    ------
    UsageError
        The line cannot be understood.
    FlyteJupyterError
        It cannot be done.
    """
    from flyte_jupyter.magics.verbs import VERBS

    name, _, rest = line.strip().partition(" ")
    if name in ("", "-h", "--help", "help"):
        print(help_text())
        return None
    verb = VERBS.get(name)
    if verb is None:
        close = difflib.get_close_matches(name, VERBS, n=1)
        fix = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(VERBS)}."
        raise UsageError(f"%flyte has no verb {_quoted(name)}", fix=fix)
    return verb.act(session, verb.parser(name).parse_line(rest, verb.rest))


def _quoted(word: str) -> str:
    return shlex.quote(word) if word.isprintable() else repr(word)
