"""Secrets that the user has typed into this session, or keeps in a keyring of the system.

A value is typed where nothing echoes it, stays in this process, and goes to the processes of a
cluster that asks for it. It is shown nowhere and cannot be pickled.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from flyte_jupyter.errors import UsageError, one_line

SERVICE = "flyte-jupyter"
"""Under what the keyring has them."""


class SecretStore:
    """The session's secrets, by name."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def ask(self, name: str, prompt: Callable[[str], str], *, keyring: bool = False) -> None:
        """Have the user type a secret.

        Parameters
        ----------
        name
            Its key, or the environment variable that it goes to.
        prompt
            Reads a line without echo.
        keyring
            Whether to keep it in the system's keyring, for sessions to come.

        Raises
        ------
        UsageError
            Nothing was typed, nobody can be asked, or there is no keyring.
        """
        try:
            with warnings.catch_warnings():
                # Where it cannot be hidden, Python would warn and read it in the open.
                warnings.simplefilter("error", getpass.GetPassWarning)
                value = prompt(f"{name}: ")
        except (EOFError, NotImplementedError, RuntimeError, getpass.GetPassWarning) as error:
            raise UsageError(
                f"nobody can be asked for {name}",
                seen=type(error).__name__,
                fix="Set it as an environment variable of the notebook.",
            ) from None
        if not value:
            raise UsageError(f"{name} is not set", seen="nothing was typed")
        if keyring:
            self._to_keyring(name, value)
        self._values[name] = value

    def find(self, names: Iterable[str]) -> tuple[str, str] | None:
        """Return the value of the first name that has one, and where it comes from."""
        listed = list(names)
        for name in listed:
            if name in self._values:
                return self._values[name], "this session"
        for name in listed:
            if value := _from_keyring(name):
                return value, "the keyring"
        return None

    def forget(self, name: str) -> bool:
        """Forget a secret, in the keyring too; tells whether there was one."""
        known = self._values.pop(name, None) is not None
        if (module := _keyring()) and _from_keyring(name):
            try:
                module.delete_password(SERVICE, name)
            except Exception as error:  # noqa: BLE001 - of whatever keeps it
                raise UsageError("the keyring keeps it", seen=type(error).__name__) from None
            known = True
        return known

    @staticmethod
    def _to_keyring(name: str, value: str) -> None:
        module = _keyring()
        if module is None:
            raise UsageError("there is no keyring", fix="Type: %pip install keyring")
        try:
            module.set_password(SERVICE, name, value)
        except Exception as error:  # noqa: BLE001 - of whatever keeps it
            raise UsageError(
                "the keyring took nothing",
                seen=one_line(error).replace(value, "****"),
                fix="Leave --keyring out; the secret then lasts as long as the session.",
            ) from None

    def __repr__(self) -> str:
        return f"<SecretStore: {', '.join(self._values) or 'empty'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled")


def _keyring() -> Any:
    if importlib.util.find_spec("keyring") is None:
        return None
    with contextlib.suppress(Exception):  # one that cannot be imported is none
        import keyring

        return keyring
    return None


def _from_keyring(name: str) -> str | None:
    module = _keyring()
    if module is None:
        return None
    with contextlib.suppress(Exception):  # there may be none on this machine, or it stays locked
        value: str | None = module.get_password(SERVICE, name)
        return value
    return None
