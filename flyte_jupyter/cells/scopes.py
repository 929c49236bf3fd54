"""The books that an analysis of a cell keeps: what is settled, what was read, what may be bound.

A name is *settled* at a point of the cell when the value that it had before the cell can no longer
be seen there, because every way to that point has assigned or deleted it. Settling is monotonic,
which is what keeps loops and exception handlers simple: whatever ran before, at least the names
settled on entry still are.

Names of class bodies are kept in the same set under keys that no identifier can equal.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

State = frozenset[str] | None
"""Names settled at one point of the cell; None where control never comes."""

MODULE_NAMES = frozenset(
    {
        "__annotations__",
        "__builtin__",
        "__builtins__",
        "__class__",
        "__classdict__",
        "__conditional_annotations__",
        "__debug__",
        "__doc__",
        "__file__",
        "__loader__",
        "__name__",
        "__package__",
        "__path__",
        "__spec__",
    }
)
"""What every module (or class) has of its own: never an input of a cell."""


def meet(states: Iterable[State]) -> State:
    """Return what is settled where several ways through the cell come together."""
    reached = [state for state in states if state is not None]
    return frozenset.intersection(*reached) if reached else None


@dataclass
class Scope:
    """One scope between the cell's top level and the expression being read.

    `class_name` is set for a class body; otherwise the scope is a comprehension's, or that of type
    parameters, whose names are all local from the start.
    """

    names: frozenset[str] = frozenset()
    class_name: str | None = None
    prefix: str = ""
    sees_class: bool = False
    declared_global: set[str] = field(default_factory=set)

    def key(self, name: str) -> str:
        """Return how a name of this class body is called in a `State`."""
        return self.prefix + name


class Ledger:
    """What is known of a cell's names while its statements are followed one by one."""

    def __init__(self) -> None:
        self.state: State = frozenset()
        self.reads: dict[str, None] = {}
        self.binds: set[str] = set()
        self.star_import = False
        self._scopes: list[Scope] = []
        self._pending: dict[str, dict[str, None]] = {}
        self._classes = 0

    def read(self, name: str) -> None:
        """Note that a name is read here; what a function of that name reads is read with it."""
        name = self._mangled(name)
        class_hidden = False
        for scope in reversed(self._scopes):
            if scope.class_name is None:
                if name in scope.names:
                    return
                class_hidden = class_hidden or not scope.sees_class
            elif not class_hidden:
                class_hidden = True
                if name in scope.declared_global:
                    break
                self._run_deferred([scope.key(name)])
                if self.state is None or scope.key(name) in self.state:
                    return
        self.read_global(name)

    def read_global(self, name: str) -> None:
        """Note a read that looks at the cell's top level only, as that of a function body does."""
        self._note(name)
        self._run_deferred([name])

    def bind(self, name: str) -> None:
        """Note an assignment in the scope that is being run."""
        if self.state is None:
            return
        key = self._target(self._mangled(name))
        self.state |= {key}
        if key.isidentifier():
            self.binds.add(key)

    def delete(self, name: str) -> None:
        """Note a `del`, which needs the name and then hides whatever it was."""
        self.read(name)
        if self.state is not None:
            self.state |= {self._target(self._mangled(name))}

    def may_bind(self, names: Iterable[str]) -> None:
        """Note names of the top level that code run later, or never, can bind."""
        if self.state is not None:
            self.binds.update(names)

    def declare_global(self, names: Iterable[str]) -> None:
        """Note a `global` statement; at the top level it changes nothing."""
        if self._scopes and self._scopes[-1].class_name is not None:
            self._scopes[-1].declared_global.update(names)

    def defer(self, name: str, free: Iterable[str]) -> None:
        """Keep what a function reads until the function itself is read."""
        if self.state is not None:
            kept = self._pending.setdefault(self._target(self._mangled(name)), {})
            kept.update(dict.fromkeys(free))

    def finish(self) -> None:
        """Read what the functions read that the cell only defined."""
        self._run_deferred(list(self._pending))

    def visible(self, names: Iterable[str]) -> tuple[str, ...]:
        """Drop the names that a function defined here finds in a scope around it."""
        inner = [scope.names for scope in self._scopes]
        return tuple(name for name in names if not any(name in known for known in inner))

    @property
    def owner(self) -> str | None:
        """The class whose body is being run: it mangles the private names in it."""
        for scope in reversed(self._scopes):
            if scope.class_name is not None:
                return scope.class_name
        return None

    @contextmanager
    def inner_scope(self, names: Iterable[str], *, sees_class: bool = False) -> Iterator[None]:
        """Enter a scope with these local names: a comprehension, or type parameters."""
        self._scopes.append(Scope(names=frozenset(names), sees_class=sees_class))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def class_scope(self, name: str) -> Iterator[dict[str, None]]:
        """Enter a class body; on leaving, the dict given holds what its methods read."""
        self._classes += 1
        scope = Scope(class_name=name, prefix=f"{self._classes}.")
        self._scopes.append(scope)
        self.bind("__module__")
        self.bind("__qualname__")
        methods: dict[str, None] = {}
        try:
            yield methods
        finally:
            self._scopes.pop()
            for key in [key for key in self._pending if key.startswith(scope.prefix)]:
                methods.update(self._pending.pop(key))

    def _target(self, name: str) -> str:
        for scope in reversed(self._scopes):
            if scope.class_name is not None:
                return name if name in scope.declared_global else scope.key(name)
        return name

    def _mangled(self, name: str) -> str:
        owner = (self.owner or "").lstrip("_")
        if owner and name.startswith("__") and not name.endswith("__"):
            return f"_{owner}{name}"
        return name

    def _note(self, name: str) -> None:
        if self.state is not None and name not in self.state and name not in MODULE_NAMES:
            self.reads.setdefault(name)

    def _run_deferred(self, keys: list[str]) -> None:
        """Follow functions to the functions they read, each once, so that recursion ends."""
        seen = set(keys)
        stack = keys[::-1]
        while stack:
            for free in self._pending.get(stack.pop(), ()):
                self._note(free)
                if free not in seen:
                    seen.add(free)
                    stack.append(free)
