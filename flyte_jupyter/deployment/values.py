"""Values on their way to a Flyte deployment and back: types for what was seen.

Flyte wants to know the type of each input and output. Those of plain values are its own, so that
its console shows them; what it has no type for is pickled, with an input in a file of its own where
it is large: the SDK has no place for that before a run is there.
"""

from __future__ import annotations

import inspect
import pickle
import sys
import tempfile
import types
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle

from flyte_jupyter.errors import CaptureError, one_line

INLINE = 10_000
"""Bytes up to which a pickle, or a text, is sent with the request for the run."""
_PLAIN = (bool, float, timedelta)
_LARGEST = 2**63 - 1


class Typed(NamedTuple):
    """A value, and what Flyte is told of it."""

    type: Any
    value: Any
    pickle: bytes = b""
    """It, pickled, if Flyte has no type for it."""
    packed: bool = False
    """Whether that is to become a file."""


def typed(name: str, value: Any) -> Typed:
    """Choose the type of an input by its value.

    Parameters
    ----------
    name
        Of the input.
    value
        Its value.

    Raises
    ------
    CaptureError
        It cannot be pickled.
    """
    kind = plain_type(value)
    if kind is not None:
        return Typed(kind, _as_now(value))
    try:
        data: bytes = cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - a user's object may raise anything
        raise CaptureError(
            f"`{name}` cannot be sent", seen=f"a {type(value).__name__}: {one_line(error)}"
        ) from None
    if len(data) > INLINE or sys.getsizeof(value) > INLINE:
        from flyte.io import File

        return Typed(File, value, data, packed=True)
    from flyte.types import FlytePickle

    return Typed(FlytePickle, _Frozen(data), data)


class _Frozen:
    """A value as it was when it was pickled; what it is unpickled as."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._data,)


def _as_now(value: Any) -> Any:
    """Return a value that what the notebook does until it is sent does not change."""
    return value.copy() if type(value) is list or _is_frame(value) else value


def plain_type(value: Any) -> Any:
    """Return Flyte's type for a value; None if it has none that gives back the same value."""
    if _is_scalar(value) or value is None:
        return type(value)
    kind = type(value)
    if kind is list:
        inner = _common(value)
        return types.GenericAlias(list, inner) if inner else None
    return kind if kind.__module__.startswith("flyte.io.") or _is_frame(value) else None


def _is_scalar(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(abs(value) <= _LARGEST)
    if kind is str:
        return len(value) <= INLINE
    if kind is datetime:
        return value.tzinfo is UTC  # Flyte makes all others that
    return kind in _PLAIN


def _is_frame(value: Any) -> bool:
    """Tell a pandas frame that Parquet gives back as it is."""
    pandas = sys.modules.get("pandas")
    if pandas is None or type(value) is not getattr(pandas, "DataFrame", None):
        return False
    if not pandas.RangeIndex(len(value)).identical(value.index) or value.attrs:
        return False
    if not len(value.columns) or not value.columns.is_unique or value.columns.name is not None:
        return False
    return all(type(name) is str and _is_column(pandas, value[name]) for name in value.columns)


def _is_column(pandas: Any, column: Any) -> bool:
    dtype = column.dtype
    if str(dtype) == "str":
        return not column.isna().any()
    if str(dtype) == "object":
        if int(pandas.__version__.partition(".")[0]) > 2 or pandas.options.future.infer_string:
            return False  # it would come back as `str`
        return bool(pandas.api.types.infer_dtype(column, skipna=False) == "string")
    numbers = getattr(dtype, "kind", "") in "biuf" and hasattr(dtype, "isnative")
    return bool(numbers and dtype.isnative and dtype.itemsize in (1, 2, 4, 8))


def _common(values: list[Any]) -> Any:
    """Return the one type of a list's scalars; None if they have no such type, or are many."""
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or len(values) > INLINE // 10 or not all(map(_is_scalar, values)):
        return None
    return kinds.pop()


def output(box: Any) -> Any:
    """Return the type of an output that nobody has declared.

    Parameters
    ----------
    box
        What `travelling` puts into it if it is of none of the plain types.
    """
    return bool | int | float | str | box | None


def inputs_of(values: Mapping[str, Typed]) -> dict[str, tuple[Any, Any]]:
    """Return the inputs of a `NativeInterface`."""
    return {name: (each.type, inspect.Parameter.empty) for name, each in values.items()}


def packed(values: Mapping[str, Typed]) -> frozenset[str]:
    """Return the names of those that become files."""
    return frozenset(name for name, each in values.items() if each.packed)


async def uploaded(values: Mapping[str, Typed]) -> dict[str, Any]:
    """Return values as the SDK takes them, with files where pickles are large."""
    return {
        name: await _upload(name, each.pickle) if each.packed else each.value
        for name, each in values.items()
    }


async def _upload(name: str, data: bytes) -> Any:
    from flyte.io import File
    from flyte.remote import upload_file

    with tempfile.TemporaryDirectory(prefix="flyte-jupyter-") as folder:
        path = Path(folder) / f"{name}.pkl"
        path.write_bytes(data)
        _, address = await upload_file.aio(path)
    return File.from_existing_remote(address)


def unboxed(value: Any) -> Any:
    """Return an output as it was before it travelled."""
    # Its class came by value, and so may be another than this process's.
    return value.value if getattr(type(value), "is_box_of_flyte_jupyter", False) else value
