"""Several named values in one pickle stream, their large buffers beside it.

All values go through one pickler, so that they share its memo: two names for one list stay two
names for one list, and a function's global that is an input too stays that very object. They go in
one `dump` each, so that a failure can name the variable and sizes can be told by name.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import cloudpickle

from flyte_jupyter.driver.values.by_value import (
    LOCKS,
    ByValue,
    KeepingClasses,
    SecretRefused,
    check_globals,
)
from flyte_jupyter.driver.values.culprits import culprit
from flyte_jupyter.driver.values.definitions import (
    definition_reducers,
    reduce_cached,
    reduced_by_itself,
)
from flyte_jupyter.driver.values.exceptions import reduce_exception
from flyte_jupyter.driver.values.origins import reduced_by_name
from flyte_jupyter.driver.values.placing import PlacingUnpickler
from flyte_jupyter.driver.values.reducers import OUT_OF_BAND, reducers
from flyte_jupyter.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class PackError(CaptureError):
    """A value that cannot be pickled, or found no room on its way.

    Attributes
    ----------
    variable
        Name of the value; empty when it is not the fault of a single one.
    """

    variable = ""

    @classmethod
    def of(cls, name: str, value: object, error: BaseException) -> PackError:
        """Say which variable it is, of which type, what in it is to blame, and why."""
        blamed = culprit(value, _can_be_pickled)
        seen = f"{blamed}: {reason(error)}" if blamed else reason(error)
        made = cls(f"`{name}` ({type_name(value)}) cannot be pickled", seen=seen)
        made.variable = name
        return made

    def __reduce__(self) -> tuple[object, ...]:
        return *super().__reduce__(), {"variable": self.variable}


class UnpackError(CaptureError):
    """A value that was pickled elsewhere and cannot be rebuilt in this process."""


@dataclass
class Pickled:
    """What pickling a mapping gave; it refers to the values' own memory, so use it at once."""

    chunks: list[bytes | bytearray] = field(default_factory=list)
    length: int = 0
    buffers: list[pickle.PickleBuffer] = field(default_factory=list)
    views: list[memoryview] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def write(self, chunk: bytes | bytearray) -> int:
        """Take a piece of the stream; large objects come as themselves, and are not copied."""
        self.chunks.append(chunk)
        self.length += len(chunk)
        return len(chunk)

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out-of-band, or say (with True) that it is small enough for the stream."""
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        self.buffers.append(buffer)
        self.views.append(view)
        return False

    def release(self, index: int) -> None:
        """Let go of a buffer that has been written: it may be a copy that only lives here."""
        self.views[index].release()
        self.buffers[index].release()

    def clear(self) -> None:
        """Let go of everything; a traceback that somebody keeps would hold on to it otherwise."""
        for index in range(len(self.views)):
            self.release(index)
        self.chunks.clear()
        self.views.clear()
        self.buffers.clear()


# A plain dictionary, because the C pickler looks into one without running Python code. cloudpickle
# turns a memoryview into bytes; here it stays what it is.
_CLOUDPICKLE = {
    kind: reducer
    for kind, reducer in cloudpickle.Pickler.dispatch_table.items()
    if kind is not memoryview and kind not in copyreg.dispatch_table
}


class _ParcelPickler(cloudpickle.Pickler):
    """cloudpickle with this package's reducers for data in large arrays."""

    def __init__(
        self,
        out: Pickled,
        watch: Callable[[object], None] | None = None,
        *,
        files: bool = False,
    ) -> None:
        self._watch = watch
        # What somebody registered with copyreg wins over what this package would do.
        self.dispatch_table = {
            **reducers(files=files),
            **copyreg.dispatch_table,
            **_CLOUDPICKLE,
            **definition_reducers(),
            functools._lru_cache_wrapper: _reduce_cached,
        }
        self._by_value = ByValue()
        super().__init__(out, protocol=5, buffer_callback=out.take)

    def _dynamic_function_reduce(self, function: Any) -> Any:
        return reduced_by_name(function, super()._dynamic_function_reduce(function))

    def _function_getnewargs(self, function: Any) -> Any:
        check_globals(function)
        code, own, *rest = super()._function_getnewargs(function)
        shared = self._by_value.globals_of(function)
        return code, own if shared is None else shared, *rest

    def reducer_override(self, obj: object) -> Any:
        """Reduce what no table of types can name."""
        if self._watch is not None:
            self._watch(obj)
        if issubclass(type(obj), ModuleType):
            return self._by_value.reduce_module(cast(ModuleType, obj))
        if type(obj) in LOCKS:
            return self._by_value.reduce_lock(obj)
        if issubclass(type(obj), BaseException):
            reduced = reduce_exception(cast(BaseException, obj))
            if reduced is not NotImplemented:
                return reduced
        reduced = super().reducer_override(obj)
        of_notebook = getattr(obj, "__module__", None) == "__main__"
        if of_notebook and reduced is NotImplemented and type(obj) not in self.dispatch_table:
            return reduced_by_itself(obj)
        return reduced


def _reduce_cached(function: Any) -> Any:
    return reduced_by_name(function, reduce_cached(function))


def _can_be_pickled(value: object) -> bool:
    out = Pickled()
    try:
        _ParcelPickler(out).dump(value)
    except Exception:  # noqa: BLE001 - whatever its own code raised
        return False
    finally:
        out.clear()
    return True


def pickle_values(
    values: Mapping[str, object],
    watch: Callable[[object], None] | None = None,
    *,
    files: bool = False,
) -> Pickled:
    """Pickle named values, with one memo for all.

    Parameters
    ----------
    values
        The values by name.
    watch
        Called with each object in them, but for numbers, texts and plain containers.
    files
        Whether the receiver has the files of this machine.

    Raises
    ------
    PackError
        When a value cannot be pickled, whatever its own code raised.
    """
    out = Pickled()
    pickler = _ParcelPickler(out, watch, files=files)
    for name, value in values.items():
        start, first = out.length, len(out.views)
        try:
            pickler.dump(value)
        except Exception as error:
            pickler.clear_memo()
            out.clear()
            if isinstance(error, SecretRefused):
                raise
            raise PackError.of(name, value, error) from error
        beside = sum(view.nbytes for view in out.views[first:])
        out.sizes[name] = out.length - start + beside
    return out


def unpickle_values(
    names: Sequence[str],
    stream: bytes | memoryview,
    buffers: Iterable[memoryview],
    *,
    keep_classes: bool = False,
) -> dict[str, object]:
    """Rebuild what `pickle_values` pickled.

    Parameters
    ----------
    names
        The names in the order in which they were pickled.
    stream
        The pickle stream.
    buffers
        The out-of-band buffers in order; the values are built on them, not on copies.
    keep_classes
        Whether classes and functions that this process has are to stay as they are.

    Raises
    ------
    UnpackError
        When a value cannot be rebuilt, for example because a module is not installed here.
    """
    source: Any = io.BytesIO(stream) if isinstance(stream, bytes) else ViewReader(stream)
    unpickler = (KeepingClasses if keep_classes else PlacingUnpickler)(source, buffers=buffers)
    values: dict[str, object] = {}
    for name in names:
        try:
            values[name] = unpickler.load()
        except Exception as error:
            what = f"`{name}` cannot be rebuilt in the process that received it"
            raise UnpackError(what, seen=reason(error)) from error
    if isinstance(unpickler, PlacingUnpickler):
        unpickler.place()
    return values


class ViewReader:
    """Read a pickle stream out of a mapping, large objects straight into their own memory."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        start, self._at = self._at, min(self._at + size, len(self._view))
        return bytes(self._view[start : self._at])

    def readinto(self, target: memoryview) -> int:
        """Fill `target` as far as there is something to read."""
        start, self._at = self._at, min(self._at + len(target), len(self._view))
        target[: self._at - start] = self._view[start : self._at]
        return self._at - start

    def readline(self) -> bytes:
        """Read up to a line's end; text opcodes, which protocol 5 rarely writes, need that."""
        line = bytearray()
        while piece := self.read(1):
            line += piece
            if piece == b"\n":
                break
        return bytes(line)


def type_name(value: object) -> str:
    """Name a value's type as a user would look it up."""
    kind = type(value)
    if kind.__module__ in {"builtins", "__main__"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def reason(error: BaseException) -> str:
    """Give the first cause of `error` in one line.

    cloudpickle and the rebuilding code of libraries wrap what went wrong; the innermost exception
    is the one that names it.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    try:
        text = next(iter(str(error).strip().splitlines()), "")
    except Exception:  # noqa: BLE001 - a broken __str__ has nothing to say
        text = ""
    kind = type(error).__name__
    if text and isinstance(error, TypeError | pickle.PickleError):
        return text
    return f"{kind}: {text}" if text else kind
