"""Environments that the SDK knows of, wherever they are held.

It keeps a list of all that were ever declared; that is private: `flyte._environment`'s
`list_loaded_environments`. A test fails loudly when a new SDK changes it.
"""

from __future__ import annotations

from typing import Any


def last_declared(name: str) -> Any:
    """Return the task environment of a name that was declared last; None if there is none."""
    import flyte
    from flyte._environment import list_loaded_environments

    for each in reversed(list_loaded_environments()):
        if each.name == name and isinstance(each, flyte.TaskEnvironment):
            return each
    return None
