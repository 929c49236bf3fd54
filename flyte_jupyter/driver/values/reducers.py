"""How data in large arrays is pickled without a copy where its own library would make one.

Nothing is imported here that is not loaded already: a value of a library's type cannot exist
before the library does. Rebuilding functions import theirs, in the process that needs it.
"""

from __future__ import annotations

import mmap
import sys
from array import array
from pathlib import Path
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    Reduced = tuple[Any, ...] | str
    Reducer = Callable[[Any], Reduced]

#: Buffers below this many bytes go into the pickle stream: a copy is cheaper than their own place.
OUT_OF_BAND = 64 << 10


def reducers(*, files: bool = False) -> dict[type, Reducer]:
    """Collect the reducers, by exact type, for the libraries that are loaded.

    Parameters
    ----------
    files
        Whether the receiver has the files of this machine, and may map them itself.
    """
    table: dict[type, Reducer] = {memoryview: _reduce_memoryview, array: _reduce_array}
    by_module = {**_BY_MODULE, **_OF_FILES} if files else _BY_MODULE
    for module, kinds in by_module.items():
        if loaded := sys.modules.get(module):
            for name, reducer in kinds.items():
                # A module that another thread is still importing may lack the name.
                if isinstance(kind := getattr(loaded, name, None), type):
                    table[kind] = reducer
    return table


def _reduce_memoryview(view: memoryview) -> Reduced:
    if not view.c_contiguous:
        return _rebuild_memoryview, (view.tobytes(), "B", None)
    if len(view.format.lstrip("@")) != 1 or view.nbytes == 0:
        return _rebuild_memoryview, (PickleBuffer(view.tobytes()), "B", None)
    return _rebuild_memoryview, (PickleBuffer(view), view.format, view.shape)


def _rebuild_memoryview(
    data: memoryview | bytes, code: str, shape: tuple[int, ...] | None
) -> memoryview:
    flat = memoryview(data).cast("B")
    return flat if shape is None else cast(Any, flat).cast(code, shape)


def _reduce_array(values: array[Any]) -> Reduced:
    if len(values) * values.itemsize < OUT_OF_BAND:
        return values.__reduce_ex__(5)
    return _rebuild_array, (values.typecode, PickleBuffer(values))


def _rebuild_array(code: str, data: memoryview) -> array[Any]:
    made: array[Any] = array(code)
    made.frombytes(data)
    return made


def _memory_order(strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Order the axes as they lie in memory, and tell how to get back.

    A transposed array is contiguous in that order, and needs no copy.
    """
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return order, sorted(range(len(order)), key=order.__getitem__)


def _reduce_ndarray(values: np.ndarray[Any, Any]) -> Reduced:
    """NumPy's own way copies slices, transposed arrays of 3 axes, dates and more into the stream.

    A read-only array arrives read-only. An array that is not contiguous in any order of its axes is
    copied once, in memory order, until it has been written.
    """
    if values.nbytes < OUT_OF_BAND or values.dtype.hasobject:
        return values.__reduce_ex__(5)
    import numpy as np

    order, back = _memory_order(values.strides)
    ordered = values.transpose(order)
    raw = np.ascontiguousarray(ordered).reshape(-1).view(np.uint8)
    if not values.flags.writeable:
        raw.flags.writeable = False
    return _rebuild_ndarray, (PickleBuffer(raw.data), values.dtype, ordered.shape, back)


def _rebuild_ndarray(
    data: memoryview, dtype: Any, shape: tuple[int, ...], back: list[int]
) -> np.ndarray[Any, Any]:
    import numpy as np

    flat: np.ndarray[Any, Any] = np.frombuffer(data, np.uint8).view(dtype)
    return flat.reshape(shape).transpose(back)


def _reduce_ndarray_view(values: np.ndarray[Any, Any]) -> Reduced:
    """For NumPy's own subclasses, of which it copies every one into the stream."""
    if values.nbytes < OUT_OF_BAND or values.dtype.hasobject:
        return values.__reduce_ex__(5)
    import numpy as np

    return _rebuild_ndarray_view, (values.view(np.ndarray), type(values))


def _rebuild_ndarray_view(values: np.ndarray[Any, Any], kind: type) -> np.ndarray[Any, Any]:
    return values.view(kind)


def _reduce_memmap(values: Any) -> Reduced:
    """Have the receiver map the same part of the same file: what is written there is in the file.

    A part that is not contiguous, or that this process alone has changed, goes as a copy.
    """
    found = _part_of_file(values)
    if found is None:
        return _reduce_ndarray_view(values)
    filename, mode, offset = found
    order = "C" if values.flags.c_contiguous else "F"
    return _rebuild_memmap, (filename, mode, offset, values.dtype, values.shape, order)


def _part_of_file(values: Any) -> tuple[str, str, int] | None:
    root = values
    while type(root.base) is type(values):
        root = root.base
    if not (isinstance(root.base, mmap.mmap) and root.filename and root.mode != "c"):
        return None
    if not (values.size and (values.flags.c_contiguous or values.flags.f_contiguous)):
        return None
    start, first = (each.__array_interface__["data"][0] for each in (values, root))
    offset = root.offset + start - first
    try:
        there = Path(root.filename).stat().st_size >= offset + values.nbytes
    except OSError:
        there = False
    mode = "r+" if values.flags.writeable else "r"
    return (str(root.filename), mode, offset) if there else None


def _rebuild_memmap(
    filename: str, mode: Any, offset: int, dtype: Any, shape: tuple[int, ...], order: Any
) -> Any:
    import numpy as np

    return np.memmap(filename, dtype, mode, offset, shape, order)


def _reduce_masked(values: Any) -> Reduced:
    if values.nbytes < OUT_OF_BAND or values.dtype.hasobject:
        return cast("Reduced", values.__reduce_ex__(5))
    import numpy as np

    mask = None if values.mask is np.ma.nomask else values.mask
    parts = np.ma.getdata(values), mask, values.fill_value, values.hardmask
    return _rebuild_masked, parts


def _rebuild_masked(data: Any, mask: Any, fill_value: Any, hard_mask: bool) -> Any:
    import numpy as np

    known = np.ma.nomask if mask is None else mask
    return np.ma.MaskedArray(data, mask=known, fill_value=fill_value, hard_mask=hard_mask)


def _reduce_tensor(tensor: Any) -> Reduced:
    """Torch's own way writes a small archive into the stream, for every tensor.

    Views of one storage arrive as tensors of their own, as they do with torch's.
    """
    import torch

    # Attributes, hooks, other devices and layouts are left to torch, which knows what they need.
    plain = (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_nested or tensor.__dict__)
        and not tensor._backward_hooks
    )
    if not plain:
        return cast("Reduced", tensor.__reduce_ex__(5))
    order, back = _memory_order(tensor.stride())
    ordered = tensor.detach().resolve_conj().resolve_neg().permute(order).contiguous()
    raw = PickleBuffer(ordered.reshape(-1).view(torch.uint8).numpy())
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    layout = tensor.dtype, tuple(ordered.shape), back
    return _rebuild_tensor, (raw, layout, tensor.requires_grad, is_parameter)


def _rebuild_tensor(
    data: memoryview, layout: tuple[Any, ...], requires_grad: bool, is_parameter: bool
) -> Any:
    import torch

    dtype, shape, back = layout
    if 0 in shape:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
    tensor = tensor.permute(back)
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


def _reduce_arrow(table: Any) -> Reduced:
    """Arrow's own way is without copies, but sends the whole column of which a slice is shown."""
    size = table.get_total_buffer_size()
    if size < OUT_OF_BAND or size <= 2 * table.nbytes:
        return cast("Reduced", table.__reduce_ex__(5))
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return _rebuild_arrow, (PickleBuffer(sink.getvalue()), isinstance(table, pa.Table))


def _rebuild_arrow(data: memoryview, is_table: bool) -> Any:
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all() if is_table else reader.read_next_batch()


def _reduce_flyte_frame(frame: Any) -> Reduced:
    """Flyte's data frame opens only what it has written; where it arrives it is to open either."""
    return _rebuild_flyte_frame, (frame.__reduce_ex__(5)[:3],)


def _rebuild_flyte_frame(reduced: tuple[Any, ...]) -> Any:
    from flyte_jupyter.driver.flyte_sdk.data import open_unwritten_frames

    open_unwritten_frames()
    make, args, state = reduced
    frame = make(*args)
    frame.__setstate__(state)
    return frame


_BY_MODULE: dict[str, dict[str, Reducer]] = {
    "numpy": {
        "ndarray": _reduce_ndarray,
        "memmap": _reduce_ndarray_view,
        "recarray": _reduce_ndarray_view,
        "matrix": _reduce_ndarray_view,
    },
    "numpy.ma": {"MaskedArray": _reduce_masked},
    "torch": {"Tensor": _reduce_tensor},
    "torch.nn": {"Parameter": _reduce_tensor},
    "flyte.io": {"DataFrame": _reduce_flyte_frame},
    "pyarrow": {"Table": _reduce_arrow, "RecordBatch": _reduce_arrow},
}
_OF_FILES: dict[str, dict[str, Reducer]] = {
    "numpy": {**_BY_MODULE["numpy"], "memmap": _reduce_memmap},
}
