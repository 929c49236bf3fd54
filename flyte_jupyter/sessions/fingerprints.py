"""Fingerprints of values: equal values have equal ones, in every process.

A pickle alone does not: it has the file and the line of each function (in a notebook a file of the
kernel's process), a random name for each class that it carries, sets in the order of their hashes,
and it tells whether two equal texts are one object. All that is left out or put in order here; what
is left can only differ where values do, or where a class of the user's pickles itself at random,
which costs a hit and nothing else.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import cloudpickle

from flyte_jupyter.driver.values.by_value import LOCKS
from flyte_jupyter.driver.values.definitions import definition_reducers
from flyte_jupyter.driver.values.reducers import reducers
from flyte_jupyter.sessions.flyte_files import is_reference, path_of, stamp

_TRACKER = re.compile(r"[0-9a-f]{32}")
# Where a class or a module comes from, which is no part of what it is.
_OF_A_CLASS = frozenset({"__firstlineno__", "__static_attributes__"})
_OF_A_MODULE = frozenset({"__spec__", "__loader__", "__cached__", "__doc__"})
_REDUCERS = {
    kind: reducer
    for kind, reducer in cloudpickle.Pickler.dispatch_table.items()
    if kind is not memoryview
}


class Fingerprint:
    """The fingerprint of named values.

    Parameters
    ----------
    values
        The values by name; their order does not count.

    Attributes
    ----------
    digest
        The fingerprint, a hexadecimal text.
    imports
        Modules that the functions among the values import when they are called.

    Raises
    ------
    Exception
        Whatever makes a value impossible to pickle.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self.imports: set[str] = set()
        self.digest = _digest([(name, values[name]) for name in sorted(values)], self.imports).hex()


def _digest(value: object, imports: set[str]) -> bytes:
    sink = _Sink()
    _Pickler(sink, imports).dump(value)
    return sink.digest()


class _Sink:
    """Takes a pickle, and keeps nothing of it but its digest."""

    def __init__(self) -> None:
        self._stream, self._buffers = hashlib.sha256(), hashlib.sha256()

    def write(self, chunk: Any) -> int:
        self._stream.update(chunk)
        return len(chunk)

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as view:
            self._buffers.update(hashlib.sha256(view).digest())
        return False

    def digest(self) -> bytes:
        return self._stream.digest() + self._buffers.digest()


class _Pickler(cloudpickle.Pickler):
    """cloudpickle, without what has nothing to do with a value's content."""

    def __init__(self, sink: _Sink, imports: set[str]) -> None:
        self._imports = imports
        self._sets: dict[int, object] = {}
        given = definition_reducers()
        own = {CodeType: _reduce_code, ModuleType: _reduce_module, TypeVar: _reduce_typevar}
        self.dispatch_table = {**reducers(), **copyreg.dispatch_table, **_REDUCERS, **given, **own}
        super().__init__(sink, protocol=5, buffer_callback=sink.take)

    def persistent_id(self, value: Any) -> object:
        """Stand in for texts and sets, which the pickler asks nothing else about."""
        kind = type(value)
        if kind is str:
            # By content: which equal texts are one object is Python's affair, and changes when
            # they are pickled and unpickled.
            return value.encode("utf-8", "surrogatepass")
        if kind.__module__ == "numpy.dtypes" and value.fields is None and value.metadata is None:
            return "dtype", value.str  # there may be several of one kind, too
        if kind is frozenset:
            return "frozenset", self._ordered(value)
        if kind is set:
            if id(value) in self._sets:  # two names for one set, which is not two equal sets
                return "again", list(self._sets).index(id(value))
            self._sets[id(value)] = value
            return "set", self._ordered(value)
        return None

    def _ordered(self, members: Any) -> list[Any]:
        if len({type(member) for member in members}) == 1 and isinstance(
            next(iter(members)), str | bytes | int
        ):
            return sorted(members)
        return sorted(_digest(member, self._imports) for member in members)

    def reducer_override(self, value: Any) -> Any:
        """Reduce functions and classes as cloudpickle does, without where they were defined."""
        if is_reference(value) and (content := _content_of(value)):
            return _file, content
        reduced = super().reducer_override(value)
        if not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        maker, args, (state, slots), *rest = reduced
        if isinstance(value, FunctionType):
            self._note_imports(value)
            code, _, *others = args
            slots = {k: v for k, v in slots.items() if k != "_cloudpickle_submodules"}
            slots["__globals__"] = _without_locks(slots["__globals__"])
            return maker, (code, {}, *others), (state, slots), *rest
        state = {k: v for k, v in state.items() if k not in _OF_A_CLASS}
        return maker, _without_tracker(args), (state, slots), *rest

    def _note_imports(self, function: FunctionType) -> None:
        found = set(imported_by(function.__code__))
        if found and function.__module__:
            found.add(function.__module__)  # what a relative import is relative to
        self._imports |= found - {"__main__"}


def _without_tracker(args: tuple[object, ...]) -> tuple[object, ...]:
    """Leave out the name by which cloudpickle knows a class again that comes back."""
    return tuple("" if isinstance(a, str) and _TRACKER.fullmatch(a) else a for a in args)


def imported_by(code: CodeType) -> Iterator[str]:
    """Yield the modules that a function imports, and those that functions inside it do."""
    yield from (i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imported_by(constant)


def _content_of(reference: Any) -> tuple[object, ...]:
    """Return what counts of a file; nothing if there is none on this machine.

    One that was given a hash counts by it wherever it lies, as it does on Flyte.
    """
    kind = type(reference).__name__
    if reference.hash:
        return kind, "hash", reference.hash
    path = path_of(reference)
    return (kind, path, reference.format, stamp(path)) if path else ()


def _file(*content: object) -> None:
    """Stand for a file; it is never unpickled."""


def _code(*parts: object) -> None:
    """Stand for a code object; it is never unpickled."""


def _reduce_code(code: CodeType) -> tuple[object, ...]:
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    body = code.co_code, code.co_exceptiontable, code.co_consts
    return _code, (code.co_name, code.co_qualname, counts, list(map(list, names)), list(body))


def _reduce_module(module: ModuleType) -> Any:
    reduced = _REDUCERS[ModuleType](module)
    maker, args = reduced[0], reduced[1]
    if len(args) < 2:
        return reduced  # it is imported there
    name, contents = args
    # In order, and without what a reload leaves out.
    kept = _without_locks({k: contents[k] for k in sorted(contents) if k not in _OF_A_MODULE})
    return maker, (name, kept)


def _without_locks(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the locks of a module, which are new ones wherever it goes."""
    return {name: value for name, value in contents.items() if type(value) not in LOCKS}


def _reduce_typevar(variable: Any) -> Any:
    maker, args = _REDUCERS[TypeVar](variable)
    return maker, _without_tracker(args)
