"""Follow an expression in the order in which Python evaluates it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, TypeAlias

from flyte_jupyter.cells.free_names import free_names
from flyte_jupyter.cells.scopes import Ledger, State, meet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


class ExpressionWalker(ast.NodeVisitor):
    """Notes in a ledger what expressions read and bind."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        """Visit those nodes that are there, in order."""
        for node in nodes:
            if node is not None:
                self.visit(node)

    def branch(self, test: ast.expr) -> tuple[State, State]:
        """Follow a condition; return what is settled where it holds and where it does not."""
        ledger = self.ledger
        if isinstance(test, ast.Constant):
            return (ledger.state, None) if test.value else (None, ledger.state)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.branch(test.operand)[::-1]
        if not isinstance(test, ast.BoolOp):
            self.visit(test)
            return ledger.state, ledger.state
        goes_on = 0 if isinstance(test.op, ast.And) else 1
        left: list[State] = []
        for operand in test.values:
            ways = self.branch(operand)
            ledger.state = ways[goes_on]
            left.append(ways[1 - goes_on])
        short, whole = meet(left), ledger.state
        return (whole, short) if goes_on == 0 else (short, whole)

    def visit_Name(self, node: ast.Name) -> None:
        """Read, bind or delete a name."""
        if isinstance(node.ctx, ast.Load):
            self.ledger.read(node.id)
        elif isinstance(node.ctx, ast.Store):
            self.ledger.bind(node.id)
        else:
            self.ledger.delete(node.id)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """Follow `name := value`."""
        self.visit(node.value)
        self.visit(node.target)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Follow `and` and `or`, whose later operands may not be evaluated."""
        self.ledger.state = meet(self.branch(node))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Follow `a if test else b`."""
        holds, fails = self.branch(node.test)
        self.ledger.state = meet(
            [self._after(holds, node.body), self._after(fails, node.orelse)],
        )

    def visit_Compare(self, node: ast.Compare) -> None:
        """Follow `a < b < c`, where `c` may not be evaluated."""
        self.visit_all([node.left, node.comparators[0]])
        certain = self.ledger.state
        self.visit_all(node.comparators[1:])
        self.ledger.state = certain

    def visit_Dict(self, node: ast.Dict) -> None:
        """Follow keys and values in turn, as they are evaluated."""
        for key, value in zip(node.keys, node.values, strict=True):
            self.visit_all([key, value])

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Read at once what a lambda reads, because it may be called at once."""
        self.visit_all([*node.args.defaults, *node.args.kw_defaults])
        for name in self.body_names(node):
            self.ledger.read_global(name)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        """Follow a list comprehension."""
        self._comprehension(node, [node.elt])

    def visit_SetComp(self, node: ast.SetComp) -> None:
        """Follow a set comprehension."""
        self._comprehension(node, [node.elt])

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """Follow a generator as if it were consumed at once."""
        self._comprehension(node, [node.elt])

    def visit_DictComp(self, node: ast.DictComp) -> None:
        """Follow a dict comprehension."""
        self._comprehension(node, [node.key, node.value])

    def body_names(self, node: ast.stmt | ast.Lambda) -> tuple[str, ...]:
        """Return what a definition's body reads of the top level, and note what it can bind."""
        free = free_names(node, self.ledger.owner)
        self.ledger.may_bind(free.binds)
        return self.ledger.visible(free.reads)

    def _after(self, state: State, node: ast.expr) -> State:
        self.ledger.state = state
        self.visit(node)
        return self.ledger.state

    def _comprehension(self, node: _Comprehension, results: list[ast.expr]) -> None:
        """Only the first iterable is evaluated outside of the comprehension's own scope."""
        ledger, first = self.ledger, node.generators[0]
        self.visit(first.iter)
        certain = ledger.state
        targets = [target for g in node.generators for target in _stored(g.target)]
        with ledger.inner_scope(targets):
            for generator in node.generators:
                if generator is not first:
                    self.visit(generator.iter)
                _visit_loads(generator.target, self.visit)
                for test in generator.ifs:
                    ledger.state, _ = self.branch(test)
            self.visit_all(results)
        ledger.state = certain


def _stored(target: ast.expr) -> list[str]:
    return [
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def _visit_loads(target: ast.expr, visit: Callable[[ast.AST], None]) -> None:
    """Visit what a target such as `a[i]` reads, and not the names that it binds."""
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            _visit_loads(element, visit)
    elif isinstance(target, ast.Starred):
        _visit_loads(target.value, visit)
    elif not isinstance(target, ast.Name):
        visit(target)
