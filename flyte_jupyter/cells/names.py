"""Find out which names a cell needs from the notebook, and which it can leave behind.

The answer errs to one side only: a name that the cell might read is a read. A value too many
costs a transfer; a value too few would be a `NameError` that the same cell does not raise when it
runs in the notebook.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyte_jupyter.cells.ipython_syntax import IPythonSyntax, parse
from flyte_jupyter.cells.scopes import MODULE_NAMES, Ledger
from flyte_jupyter.cells.statements import StatementWalker
from flyte_jupyter.cells.strings import Mentioned, mentioned_in

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class CellNames:
    """The names of one cell.

    Parameters
    ----------
    reads
        Names that the cell may read at its top level before it has bound them for certain, in the
        order of first read. Builtins and IPython's own names are among them: whether such a name
        has a value of the notebook's is for `capture` to see.
    binds
        Names that the cell may bind at its top level.
    star_import
        The cell may bind any name at all: `from m import *`, `%run`, `%pylab`.
    imports
        Top-level packages that it imports anywhere.
    mentioned
        Names in strings, which it reads if the notebook has them.
    """

    reads: tuple[str, ...]
    binds: frozenset[str]
    star_import: bool
    imports: frozenset[str]
    mentioned: Mentioned = field(default_factory=Mentioned)


def analyze(body: str, transform: Callable[[str], str]) -> CellNames:
    """Analyse the text of a cell, without its `%%flyte_task` line.

    Parameters
    ----------
    body
        The text, with whatever IPython syntax it has.
    transform
        IPython's `InteractiveShell.transform_cell`.

    Raises
    ------
    SyntaxError
        As Python raises it for the transformed cell.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver, which compiles the cell to run it, shows them
        try:
            tree = parse(transform(body))
            return _follow(tree, transform)
        except RecursionError:
            return _coarse(ast.parse(transform(body)))


def _follow(tree: ast.Module, transform: Callable[[str], str]) -> CellNames:
    syntax = IPythonSyntax(transform)
    tree = ast.fix_missing_locations(syntax.visit(tree))
    ledger = Ledger()
    StatementWalker(ledger).visit_all(tree.body)
    ledger.finish()
    return CellNames(
        reads=tuple(ledger.reads),
        binds=frozenset(ledger.binds),
        star_import=ledger.star_import or syntax.binds_anything,
        imports=_imports(tree),
        mentioned=mentioned_in(tree),
    )


def _imports(tree: ast.Module) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def _coarse(tree: ast.Module) -> CellNames:
    """Take every name of a cell that nests too deeply to be followed (generated code)."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    reads = dict.fromkeys(n.id for n in names if n.id not in MODULE_NAMES)
    binds = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            binds.add(node.name)
        elif isinstance(node, ast.alias):
            binds.add(node.asname or node.name.partition(".")[0])
    star = "*" in binds
    return CellNames(tuple(reads), frozenset(binds - {"*"}), star, _imports(tree))
