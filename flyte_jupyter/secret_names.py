"""Recognise a variable that holds a secret, by its name or by being a URL with a password.

A notebook sends a cell's inputs without being asked, so a password that happens to be read should
not travel unnoticed. Names of parts of text (`pad_token`) and of places where a secret is found
(`token_path`, `secret_name`) are told apart from the secret itself.
"""

from __future__ import annotations

import numbers
import re
import types
from collections.abc import Mapping, Set
from itertools import pairwise
from typing import Any

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SINGLE = frozenset(
    {
        "apikey",
        "credential",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "secret",
        "secrets",
        "token",
    }
)
_OF_TEXT_ALONE = frozenset({"token"})
_KEYS = frozenset(
    {
        *("access", "account", "api", "auth", "encryption", "private", "secret", "signing"),
        *("anthropic", "aws", "azure", "cohere", "databricks", "gemini", "github", "gitlab"),
        *("groq", "hf", "huggingface", "mistral", "openai", "pinecone", "sendgrid", "stripe"),
        *("twilio", "wandb"),
    }
)
"""What a key is of that is a secret: the words before `key`."""
_URL_WITH_PASSWORD = re.compile(r"\s*[a-zA-Z][\w+.-]*://[^/\s:@]*:(?![{$<%*])[^/\s@]+@")
_NO_SECRET = (
    *(type(None), numbers.Number, types.ModuleType, type),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType),
)
_ABOUT = frozenset(
    {
        "arn",
        "column",
        "count",
        "dir",
        "env",
        "field",
        "file",
        "filename",
        "header",
        "label",
        "length",
        "name",
        "names",
        "path",
        "pattern",
        "prompt",
        "regex",
        "type",
        "uri",
        "url",
        "var",
    }
)
_OF_TEXT = frozenset(
    {
        "bos",
        "cls",
        "end",
        "eos",
        "first",
        "last",
        "mask",
        "next",
        "pad",
        "prev",
        "previous",
        "sep",
        "special",
        "start",
        "stop",
        "unk",
    }
)


def holds_secret(name: str, value: object) -> bool:
    """Tell whether a variable of this name and value is to be taken for a secret."""
    if isinstance(value, str | bytes | bytearray):
        return bool(value) and (has_password(value) or _names_secret_text(name))
    return _names_secret(name) and _may_hold_text(value)


def has_password(value: object) -> bool:
    """Tell whether a value is a URL with a password in it."""
    return isinstance(value, str) and _URL_WITH_PASSWORD.match(value) is not None


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _names_secret_text(name: str) -> bool:
    words = _words(name)
    if not words or words[-1] in _ABOUT:
        return False
    if any(of in _KEYS and key == "key" for of, key in pairwise(words)):
        return True
    found = _SINGLE.intersection(words)
    return bool(found - {"token"}) or ("token" in found and not _OF_TEXT.intersection(words))


def _names_secret(name: str) -> bool:
    """Tell whether a name says of any value that it is a secret, not that it deals with some."""
    words = _words(name)
    if len(words) > 1 and words[-1] in {"key", "keys"}:
        return words[-2] in _KEYS
    return bool(words) and words[-1] in _SINGLE - _OF_TEXT_ALONE


def _may_hold_text(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_may_hold_text(each) for each in value.values())
    if isinstance(value, list | tuple | Set):
        return any(_may_hold_text(each) for each in value)
    if isinstance(value, str | bytes | bytearray):
        return bool(value)
    # A declaration says where a secret is, not what it is.
    return not isinstance(value, _NO_SECRET) and type(value).__module__.partition(".")[0] != "flyte"


HIDDEN = "****"
"""What stands where a secret was."""


def without_secrets(value: Any, name: str = "", spared: frozenset[str] = frozenset()) -> Any:
    """Return plain data with what is to be taken for a secret hidden.

    Parameters
    ----------
    value
        Texts, numbers, and lists and dictionaries of them.
    name
        What it is called.
    spared
        Keys below which nothing is hidden.
    """
    if name in spared:
        return value
    if isinstance(value, dict):
        return {str(k): without_secrets(each, str(k), spared) for k, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(each, name, spared) for each in value]
    return HIDDEN if holds_secret(name, value) else value
