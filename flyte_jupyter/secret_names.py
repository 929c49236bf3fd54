"""Recognise a variable that holds a secret by its name, without looking at the value.

A notebook sends a cell's inputs without being asked, so a password that happens to be read should
not travel unnoticed. Names of parts of text (`pad_token`) and of places where a secret is found
(`token_path`, `secret_name`) are told apart from the secret itself.
"""

from __future__ import annotations

import re
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
_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key")})
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
    if not isinstance(value, str | bytes | bytearray) or not value:
        return False
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _ABOUT:
        return False
    if any(pair in _PAIRS for pair in pairwise(words)):
        return True
    found = _SINGLE.intersection(words)
    return bool(found - {"token"}) or ("token" in found and not _OF_TEXT.intersection(words))


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
