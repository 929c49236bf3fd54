"""Follow the statements of a cell's top level, and of class bodies in it, along every way."""

# ruff: noqa: N802, N815 - `ast.NodeVisitor` looks methods up by the names of the node classes
from __future__ import annotations

import ast
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from flyte_jupyter.cells.expressions import ExpressionWalker
from flyte_jupyter.cells.scopes import Ledger, State, meet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WAITING_DECORATORS = frozenset(
    {
        "abstractmethod",
        "asynccontextmanager",
        "cache",
        "cached_property",
        "classmethod",
        "contextmanager",
        "dataclass",
        "delayed",
        "deleter",
        "final",
        "getter",
        "jit",
        "lru_cache",
        "njit",
        "overload",
        "override",
        "pandas_udf",
        "property",
        "remote",
        "setter",
        "singledispatch",
        "staticmethod",
        "task",
        "total_ordering",
        "udf",
        "wraps",
    }
)
"""Decorators known not to call what they decorate, so that it is still run only when read."""

_SUPPRESSORS = frozenset({"suppress", "raises", "assertRaises"})
"""Context managers known to swallow exceptions, so that code after them runs on a broken body."""


class StatementWalker(ExpressionWalker):
    """Notes in a ledger what statements read and bind, and where they lead."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._breaks: list[list[State]] = []

    def follow(self, body: Sequence[ast.AST], start: State) -> State:
        """Follow a block from a state; return the state at its end."""
        self.ledger.state = start
        self.visit_all(body)
        return self.ledger.state

    # Bindings

    def visit_Assign(self, node: ast.Assign) -> None:
        """Evaluate the value, then bind; a lambda that is given a name waits for it to be read."""
        name = node.targets[0] if len(node.targets) == 1 else None
        if isinstance(node.value, ast.Lambda) and isinstance(name, ast.Name):
            self.visit_all([*node.value.args.defaults, *node.value.args.kw_defaults])
            self.ledger.defer(name.id, self.body_names(node.value))
        else:
            self.visit(node.value)
        self.visit_all(node.targets)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Read the target first: `x += 1` needs an `x`."""
        if isinstance(node.target, ast.Name):
            self.ledger.read(node.target.id)
            self.visit_all([node.value, node.target])
        else:
            self.visit_all([node.target, node.value])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Bind nothing for an annotation without a value."""
        self.visit_all([node.value])
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)
        self.visit(node.annotation)

    def visit_Import(self, node: ast.Import) -> None:
        """`import a.b` binds `a`."""
        for alias in node.names:
            self.ledger.bind(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from m import *` may bind anything."""
        for alias in node.names:
            if alias.name == "*":
                self.ledger.star_import = True
            else:
                self.ledger.bind(alias.asname or alias.name)

    def visit_Global(self, node: ast.Global) -> None:
        """In a class body, `global x` sends assignments to the top level."""
        self.ledger.declare_global(node.names)

    # Definitions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Evaluate what surrounds a function now; its body when it is read."""
        arguments = node.args
        self.visit_all([*node.decorator_list, *arguments.defaults, *arguments.kw_defaults])
        with self._type_parameters(node):
            self.visit_all(arg.annotation for arg in _arguments(arguments))
            self.visit_all([node.returns])
            free = self.body_names(node)
        self._define(node, free)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Treat a coroutine function as a function."""
        self.visit_FunctionDef(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Run a class body now; its methods when the class is read."""
        self.visit_all(node.decorator_list)
        with self._type_parameters(node):
            self.visit_all([*node.bases, *node.keywords])
            with self.ledger.class_scope(node.name) as methods:
                self.visit_all(node.body)
        self._define(node, tuple(methods))

    def visit_TypeAlias(self, node: Any) -> None:
        """`type X = ...` is evaluated when `X` is used (Python 3.12)."""
        free = self.body_names(node)
        self.ledger.bind(node.name.id)
        self.ledger.defer(node.name.id, free)

    def _define(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, free: tuple[str, ...]
    ) -> None:
        if not all(_last_name(item) in _WAITING_DECORATORS for item in node.decorator_list):
            for name in free:
                self.ledger.read_global(name)
        if node.name.isidentifier():
            self.ledger.bind(node.name)
            self.ledger.defer(node.name, free)

    def _type_parameters(self, node: ast.AST) -> AbstractContextManager[None]:
        """Bounds and defaults of type parameters are lazy; reading them now does no harm."""
        parameters: list[Any] = getattr(node, "type_params", [])
        if not parameters:
            return nullcontext()
        scope = self.ledger.inner_scope([p.name for p in parameters], sees_class=True)
        return _Entered(scope, lambda: self.visit_all(_lazy_parts(parameters)))

    # Control flow

    def visit_If(self, node: ast.If) -> None:
        """Follow both ways."""
        holds, fails = self.branch(node.test)
        self.ledger.state = meet([self.follow(node.body, holds), self.follow(node.orelse, fails)])

    def visit_While(self, node: ast.While) -> None:
        """Count on the test to run, and not on the body."""
        holds, fails = self.branch(node.test)
        self._loop(node, holds, fails)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """Count on the iterable to be evaluated, and not on the target to be bound."""
        self.visit(node.iter)
        before = self.ledger.state
        self.visit(node.target)
        self._loop(node, self.ledger.state, before)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        """Treat `async for` as `for`."""
        self.visit_For(node)

    def _loop(self, node: ast.While | ast.For | ast.AsyncFor, inside: State, after: State) -> None:
        self._breaks.append([])
        self.follow(node.body, inside)
        broken = self._breaks.pop()
        self.ledger.state = meet([self.follow(node.orelse, after), *broken])

    def visit_Break(self, _node: ast.Break) -> None:
        """Lead to the end of the loop."""
        if self._breaks:
            self._breaks[-1].append(self.ledger.state)
        self.ledger.state = None

    def visit_Continue(self, _node: ast.Continue) -> None:
        """Lead to the loop's head, where no more is settled than on entry."""
        self.ledger.state = None

    def visit_Raise(self, node: ast.Raise) -> None:
        """Lead to a handler, which starts from what was settled before its `try`."""
        self.visit_all([node.exc, node.cause])
        self.ledger.state = None

    def visit_Assert(self, node: ast.Assert) -> None:
        """Evaluate the message only where the test fails."""
        holds, fails = self.branch(node.test)
        self.ledger.state = fails
        self.visit_all([node.msg])
        self.ledger.state = holds

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Go on after the body, unless the context manager is known to swallow exceptions."""
        suppressing: list[State] = []
        for item in node.items:
            self.visit(item.context_expr)
            if _last_name(item.context_expr) in _SUPPRESSORS:
                suppressing.append(self.ledger.state)
            self.visit_all([item.optional_vars])
        self.visit_all(node.body)
        self.ledger.state = meet([self.ledger.state, *suppressing])

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        """Treat `async with` as `with`."""
        self.visit_With(node)

    def visit_Try(self, node: Any) -> None:
        """Start handlers and `finally` from what was settled before the body.

        `finally` is followed twice: once from there, for what it reads, and once from the normal
        end, for what is settled after it.
        """
        before = self.ledger.state
        ends = [self.follow([*node.body, *node.orelse], before)]
        ends.extend(self.follow([handler], before) for handler in node.handlers)
        self.follow(node.finalbody, before)
        self.follow(node.finalbody, meet(ends))

    visit_TryStar = visit_Try

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Bind the exception; Python deletes the name at the end of the handler."""
        self.visit_all([node.type])
        if node.name is not None:
            self.ledger.bind(node.name)
        self.visit_all(node.body)

    def visit_Match(self, node: ast.Match) -> None:
        """Try the cases in turn; a pattern binds for certain only where it matched."""
        self.visit(node.subject)
        missed: State = self.ledger.state
        ends: list[State] = []
        for case in node.cases:
            self.ledger.state = missed
            self.visit(case.pattern)
            guard = case.guard or ast.Constant(value=True)
            holds, _ = self.branch(guard)
            ends.append(self.follow(case.body, holds))
            if case.guard is None and _matches_all(case.pattern):
                missed = None
        self.ledger.state = meet([*ends, missed])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """Bind a capture."""
        self.visit_all([node.pattern])
        self._capture(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """Bind the rest of a sequence."""
        self._capture(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        """Bind the rest of a mapping."""
        self.visit_all([*node.keys, *node.patterns])
        self._capture(node.rest)

    def visit_MatchOr(self, node: ast.MatchOr) -> None:
        """Alternatives bind the same names, and each reads its own."""
        before = self.ledger.state
        self.ledger.state = meet([self.follow([pattern], before) for pattern in node.patterns])

    def _capture(self, name: str | None) -> None:
        if name is not None:
            self.ledger.bind(name)


class _Entered(AbstractContextManager[None]):
    """A scope in which something is done on entry."""

    def __init__(self, scope: AbstractContextManager[None], first: Callable[[], None]) -> None:
        self._scope, self._first = scope, first

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._first()

    def __exit__(self, *exc_info: Any) -> None:
        self._scope.__exit__(*exc_info)


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    rest = [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]


def _lazy_parts(parameters: list[Any]) -> list[ast.AST]:
    parts = ("bound", "default_value")
    return [part for p in parameters for key in parts if (part := getattr(p, key, None))]


def _last_name(node: ast.expr) -> str:
    """Return `c` for `a.b.c` and for a call of it."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _matches_all(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and (
        pattern.pattern is None or _matches_all(pattern.pattern)
    )
