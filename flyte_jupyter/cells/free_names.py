"""Which names a function takes from the top level, asked of the compiler itself.

Scoping rules (closures, class bodies, comprehensions, `global`, `nonlocal`, private-name mangling,
type parameters) differ between Python versions in details that are easy to get wrong, so they are
not written again here: the function is compiled alone, never run, and its bytecode is read.
"""

from __future__ import annotations

import ast
import dis
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOADS = frozenset(
    {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL", "DELETE_NAME"}
)
_JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))


@dataclass(frozen=True)
class FreeNames:
    """Names of the top level that code reads and binds when it is run."""

    reads: tuple[str, ...]
    binds: frozenset[str]


def free_names(node: ast.stmt | ast.Lambda, owner: str | None) -> FreeNames:
    """Return the top-level names that a definition uses when it is called.

    Parameters
    ----------
    node
        A function, lambda or `type` statement.
    owner
        The class whose body the definition stands in: it mangles `__private` names and provides
        `__class__`.
    """
    statement = (
        ast.Assign(targets=[ast.Name("_", ast.Store())], value=node)
        if isinstance(node, ast.Lambda)
        else node
    )
    if owner is not None:
        wrapper = cast(ast.ClassDef, ast.parse(f"class {owner}: pass").body[0])
        wrapper.body = [statement]
        statement = wrapper
    module = ast.fix_missing_locations(ast.Module(body=[statement], type_ignores=[]))
    try:
        code = compile(module, "<cell>", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return _names_written(node)
    outer = _nested(code) if owner is None else (f for body in _nested(code) for f in _nested(body))
    reads: dict[str, None] = {}
    binds: set[str] = set()
    for function in outer:
        _collect(function, reads, binds)
    return FreeNames(tuple(reads), frozenset(binds))


def _nested(code: CodeType) -> Iterator[CodeType]:
    return (const for const in code.co_consts if isinstance(const, CodeType))


def _collect(code: CodeType, reads: dict[str, None], binds: set[str]) -> None:
    """Add what one code object, and those nested in it, take from and give to the top level.

    In a class body `LOAD_NAME` looks at the class first. Without jumps the order of instructions
    is the order of execution, so a name stored before is the class's own; with jumps it is counted
    as a read, because a value too many does no harm.
    """
    instructions = list(dis.get_instructions(code))
    straight = not any(step.opcode in _JUMPS for step in instructions)
    own: set[str] = set()
    for step in instructions:
        if step.opname == "STORE_NAME" and straight:
            own.add(step.argval)
        elif step.opname == "STORE_GLOBAL":
            binds.add(step.argval)
        elif step.opname in _LOADS and step.argval not in own:
            reads.setdefault(step.argval)
    for inner in _nested(code):
        _collect(inner, reads, binds)


def _names_written(node: ast.AST) -> FreeNames:
    """Return every name in a definition that cannot be compiled alone."""
    reads = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    binds = [name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names]
    return FreeNames(tuple(dict.fromkeys(reads)), frozenset(binds))
