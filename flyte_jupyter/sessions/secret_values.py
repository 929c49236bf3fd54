"""Secrets of an environment: which there are is compared, their values are only passed on.

A value is asked for when a cluster is started, once, and then lives in the processes of that
cluster. Whatever changes later, a variable of the notebook or what the resolver would say (many
give another token each time), is no reason to take a running cluster away from its user: the next
cluster has it, after ``%flyte down``. ``%flyte restart`` does not bring it: a new driver has the
environment of its cluster, as the workers that stay have.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.driver.flyte_sdk.connector_tasks import secrets_of_task
from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions.environments import Environment
from flyte_jupyter.sessions.secret_store import SecretStore


def secret_names(environment: Environment) -> dict[str, str]:
    """Return which secret each variable of a task is to hold: by its name, without its value."""
    return {variable: repr(secret) for variable, secret in _by_variable(environment).items()}


def resolve_secrets(
    environment: Environment, resolver: str, store: SecretStore | None = None
) -> dict[str, str | None]:
    """Find the values of an environment's secrets, by the variable that each is to be in.

    Each is looked up among the notebook's own environment variables, under the name that it will
    have in the task and under its key, with its group if it has one; then among those typed into
    this session and those in the keyring; then the resolver is asked. That is the user's code,
    which may take its time and may be interrupted: call this where that does no harm.

    Parameters
    ----------
    environment
        Whose secrets.
    resolver
        ``module:function``, called with group and key; empty for none.
    store
        The session's own.

    Returns
    -------
    dict
        None for what a connector's task asks for and is nowhere to be found: its job says so, and
        other tasks of the environment need not care.

    Raises
    ------
    UsageError
        A secret is nowhere to be found, or the resolver cannot be used.
    """
    values: dict[str, str | None] = {}
    for variable, secret in _by_variable(environment).items():
        value = _from_notebook(secret)
        if value is None and store and (found := store.find(_names(secret))):
            value = found[0]
        if value is None and resolver:
            value = _ask(resolver, secret, environment.name)
        if value is None and not isinstance(secret, _OfConnector):
            raise UsageError(
                f"the secret {secret.key!r} of {environment.name} has no value",
                seen=f"{resolver} returned None" if resolver else "",
                fix=f"Set {variable} in the notebook's environment, type it with %flyte secret "
                f"{_typed_name(secret)}, or configure FlyteJupyter.secret_resolver.",
            )
        values[variable] = value
    return values


@dataclass(frozen=True)
class _OfConnector:
    """A secret that a connector's task names by its variable alone."""

    as_env_var: str
    group: str | None = None

    @property
    def key(self) -> str:
        return self.as_env_var


def _by_variable(environment: Environment) -> dict[str, Any]:
    of_connectors = {
        variable: _OfConnector(variable)
        for task in environment.declared.tasks.values()
        for variable in secrets_of_task(task)
        if variable not in (environment.declared.env_vars or {})
    }
    declared = {s.as_env_var: s for s in environment.secrets() if s.as_env_var is not None}
    return {**of_connectors, **declared}


def _from_notebook(secret: Any) -> str | None:
    return next((os.environ[name] for name in _names(secret) if name in os.environ), None)


def _names(secret: Any) -> list[str]:
    """Return what a value may be found under; never under a key that other groups have too."""
    name = _typed_name(secret)
    return [secret.as_env_var, name, variable_of(name)]


def _typed_name(secret: Any) -> str:
    return f"{secret.group}/{secret.key}" if secret.group else str(secret.key)


def variable_of(name: str) -> str:
    """Return the environment variable that a secret goes to unless it says otherwise.

    Parameters
    ----------
    name
        Its key, after its group and a slash if it has one.
    """
    return name.replace("/", "_").replace("-", "_").upper()


def typed_names(environment: Environment) -> list[str]:
    """Return the names under which secrets of an environment can be typed."""
    return [_typed_name(secret) for secret in _by_variable(environment).values()]


def whereabouts(environment: Environment, store: SecretStore) -> list[tuple[str, str, str]]:
    """Return each secret of an environment, the variable that it goes to, and where it is found."""
    found = []
    for variable, secret in _by_variable(environment).items():
        if _from_notebook(secret) is not None:
            place = "the notebook's environment"
        else:
            known = store.find(_names(secret))
            place = known[1] if known else "nowhere yet"
        found.append((_typed_name(secret), variable, place))
    return found


def _ask(resolver: str, secret: Any, environment: str) -> str | None:
    """Ask the resolver; what it says or raises is quoted nowhere, for that may be the secret."""
    call, (module, _, name) = _callable(resolver), resolver.partition(":")
    what = f"the secret {secret.key!r} of {environment} cannot be had"
    try:
        value = call(secret.group, secret.key)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is anybody's code
        again = f"{name}({secret.group!r}, {secret.key!r})"
        raise UsageError(
            what,
            seen=f"{resolver} raised {type(error).__name__}",
            # The semicolon, lest IPython show what comes back if it works then.
            fix=f"To see why: from {module} import {name}; {again};",
        ) from None
    if value is None or (isinstance(value, str) and _fits_a_variable(value)):
        return value
    kind = "text that no variable can hold" if isinstance(value, str) else type(value).__name__
    raise UsageError(
        what, seen=f"{resolver} returned {kind}", fix="A resolver returns a str, or None."
    )


def _fits_a_variable(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _callable(resolver: str) -> Callable[[str | None, str], object]:
    module, _, name = resolver.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _unusable(str(error)) from None
    except Exception as error:  # noqa: BLE001 - it is anybody's module
        raise _unusable(f"importing {module} raised {type(error).__name__}") from None
    if not callable(function):
        raise _unusable(f"{resolver} is of type {type(function).__name__}")
    found: Callable[[str | None, str], object] = function
    return found


def _unusable(seen: str) -> UsageError:
    return UsageError(
        "FlyteJupyter.secret_resolver cannot be used",
        seen=seen,
        fix="It names a function as 'module:function'.",
    )
