"""Find names that stand in strings, where libraries look them up in the code that calls them.

Only what is clear: `@name` in queries of pandas, tables in SQL that are data frames (DuckDB finds
those), and expressions for `eval`. For all else there is an option of the magic.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_AT = re.compile(r"(?<![\w.])@([^\W\d]\w*)")
_TABLES = re.compile(r"\b(?:from|join)\s+([^\W\d]\w*(?:\s*,\s*[^\W\d]\w*)*)(?![\w.(])", re.I)
_PANDAS = frozenset({"pd", "pandas"})
_OF_FRAMES = frozenset({"query", "eval"})
_OF_SQL = frozenset({"sql", "query", "execute"})
_FRAMES = frozenset({"pandas", "polars", "pyarrow", "numpy"})


@dataclass(frozen=True)
class Mentioned:
    """Names in strings of a cell.

    Parameters
    ----------
    names
        Names that are looked up whatever their values are.
    tables
        Names that are looked up if their values are data frames.
    """

    names: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


def mentioned_in(tree: ast.AST) -> Mentioned:
    """Find the names in strings of calls."""
    names: dict[str, None] = {}
    tables: dict[str, None] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, method = _called(node.func)
        for text in _texts(node):
            if method == "eval" and (owner in _PANDAS or not owner):
                names.update(dict.fromkeys(_names(text)))
            elif method in _OF_FRAMES and owner:
                names.update(dict.fromkeys(_AT.findall(text)))
            if method in _OF_SQL and owner:
                for listed in _TABLES.findall(text):
                    tables.update(dict.fromkeys(re.findall(r"\w+", listed)))
    return Mentioned(tuple(names), tuple(tables))


def is_table(value: object) -> bool:
    """Tell whether a value is one that SQL can be about."""
    return type(value).__module__.partition(".")[0] in _FRAMES


def _called(function: ast.expr) -> tuple[str, str]:
    if isinstance(function, ast.Name):
        return "", function.id
    if isinstance(function, ast.Attribute):
        owner = function.value
        return (owner.id if isinstance(owner, ast.Name) else "?"), function.attr
    return "", ""


def _texts(call: ast.Call) -> Iterator[str]:
    """Yield the texts among the arguments, and of the f-strings among them what is constant."""
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def _names(expression: str) -> list[str]:
    try:
        tree = ast.parse(expression.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
