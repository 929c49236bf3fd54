"""Parsing of magic lines: argparse, whose every complaint is one line and never an exit."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from typing import Any, NoReturn

from flyte_jupyter.errors import UsageError


class HelpShown(Exception):
    """The line asked for help, and got it."""


class MagicParser(argparse.ArgumentParser):
    """An argument parser for a magic's line.

    Parameters
    ----------
    magic
        How the magic is typed: ``%%flyte_task``.
    """

    def __init__(self, magic: str, **kwargs: Any) -> None:
        super().__init__(prog=magic, add_help=False, allow_abbrev=False, **kwargs)
        self.add_argument("-h", "--help", action="store_true", help="show this and do nothing")

    def parse_line(self, line: str, rest: str | None = None) -> argparse.Namespace:
        """Parse what stands behind the magic's name.

        Parameters
        ----------
        line
            The text.
        rest
            Attribute for words that this parser does not know; without it they are an error.

        Raises
        ------
        UsageError
            It cannot be understood.
        HelpShown
            It asked for help, which has been printed.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{self.prog}: {str(error).lower()}", seen=repr(line)) from None
        if "-h" in words or "--help" in words:
            print(self.format_help())
            raise HelpShown
        if rest is None:
            return self.parse_args(words)
        options, unknown = self.parse_known_args(words)
        setattr(options, rest, unknown)
        return options

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, with the closest option if one was mistyped."""
        fix = f"See {self.prog} --help"
        if match := re.search(r"unrecognized arguments: (-\S+)", message):
            options = [o for action in self._actions for o in action.option_strings]
            close = difflib.get_close_matches(match[1].partition("=")[0], options, n=1)
            if close:
                fix = f"Did you mean {close[0]}? {fix}"
        raise UsageError(f"{self.prog}: {message}", fix=fix)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise: nothing in a notebook may exit."""
        raise UsageError(f"{self.prog}: {message or status}")


def names(text: str) -> list[str]:
    """Read comma-separated variable names.

    Raises
    ------
    argparse.ArgumentTypeError
        One of them is no name.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        if not name.isidentifier():
            raise argparse.ArgumentTypeError(f"{name!r} is not a variable name")
    if not found:
        raise argparse.ArgumentTypeError("it names no variable")
    return found


def seconds(text: str) -> float:
    """Read a positive number of seconds.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def count(text: str, least: int = 0) -> int:
    """Read a whole number.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one, or below `least`.
    """
    if not re.fullmatch(r"-?\d{1,9}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def workers(text: str) -> int:
    """Read a number of workers, at least one."""
    return count(text, 1)


def ranks(text: str) -> str:
    """Read which ranks to show: ``all``, or numbers with commas.

    Raises
    ------
    argparse.ArgumentTypeError
        It is neither.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if text != "all" and not (words and all(word.isdecimal() for word in words)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither `all` nor numbers such as 0,1")
    return ",".join(words)
