"""Submodules that the notebook has imported by name: `import a.b` there, `a.b` in the task's cell.

What travels of that is the module `a`, which here is imported alone.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import types
from collections.abc import Iterator, Mapping


def import_named(code: str, inputs: Mapping[str, object]) -> None:
    """Import the submodules of modules among `inputs` that code names and that are not there.

    Parameters
    ----------
    code
        Python; what is none is left alone.
    inputs
        Values by the names that the code has for them.
    """
    modules = {n: each for n, each in inputs.items() if isinstance(each, types.ModuleType)}
    if not modules:
        return
    tree = None
    with contextlib.suppress(SyntaxError, ValueError):
        tree = ast.parse(code)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            _follow(modules, list(_chain(node)))


def _chain(node: ast.expr) -> Iterator[str]:
    """Yield the names of `a.b.c` in order; nothing if it does not begin with a name."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        names = list(_chain(node.value))
        yield from [*names, node.attr] if names else ()


def _follow(modules: Mapping[str, types.ModuleType], names: list[str]) -> None:
    found: object = modules.get(names[0]) if names else None
    for name in names[1:]:
        if not isinstance(found, types.ModuleType):
            return
        here = vars(found)
        if name not in here and "__path__" in here:
            with contextlib.suppress(Exception):  # the cell says better what is wrong with it
                importlib.import_module(f"{found.__name__}.{name}")
        found = here.get(name)
