"""Outputs of a run as a file holds them: a line that describes the rest, a pickle, its buffers.

The line has also how the files are to which the outputs refer: they are not copied, and a result
without its files is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import xxhash

from flyte_jupyter.cells.sizes import human_size
from flyte_jupyter.driver.values.pickling import pickle_values, unpickle_values
from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions.flyte_files import is_reference, path_of, stamp

_FORMAT = b"flyte-jupyter result 1\n"
_LONGEST_HEADER = 1 << 20
_CHUNK = 8 << 20

Buffer: TypeAlias = bytes | bytearray


@dataclass(frozen=True)
class Frozen:
    """A copy of outputs, which nothing that the user does can change any more.

    Attributes
    ----------
    pieces
        What to write, in order.
    size
        Bytes in all.
    """

    pieces: tuple[Buffer, ...]
    size: int


def freeze(outputs: Mapping[str, object], limit: int) -> Frozen:
    """Copy outputs.

    Raises
    ------
    CaptureError
        One cannot be pickled.
    UsageError
        They take more than `limit` bytes; nothing has been copied then.
    """
    files: dict[str, str] = {}

    def watch(value: object) -> None:
        if is_reference(value) and (path := path_of(value)):
            files[path] = stamp(path)

    pickled = pickle_values(outputs, watch)
    try:
        size = pickled.length + sum(view.nbytes for view in pickled.views)
        if size > limit:
            raise UsageError(
                "it is too large",
                seen=f"{human_size(size)}, and FlyteJupyter.cache_limit is {human_size(limit)}",
            )
        body = [bytearray().join(pickled.chunks), *(_copied(view) for view in pickled.views)]
    finally:
        pickled.clear()
    lengths = [len(part) for part in body]
    header = json.dumps(
        {"names": list(outputs), "lengths": lengths, "digest": _digest(body), "files": files}
    )
    first = _FORMAT + header.encode() + b"\n"
    return Frozen((first, *body), len(first) + size)


def _copied(view: memoryview) -> bytearray:
    """Copy a buffer piece by piece: one copy of it all would hold Python's lock throughout."""
    copy = bytearray(len(view))
    for start in range(0, len(view), _CHUNK):
        copy[start : start + _CHUNK] = view[start : start + _CHUNK]
    return copy


def thaw(file: BinaryIO, size: int) -> dict[str, Any]:
    """Rebuild outputs, in memory of their own.

    Parameters
    ----------
    file
        Where they are.
    size
        Its bytes.

    Raises
    ------
    ValueError
        It is no whole result, or files that it refers to are gone or have changed.
    CaptureError
        A value cannot be rebuilt here.
    """
    start = file.read(_LONGEST_HEADER)
    line, end, _ = start.removeprefix(_FORMAT).partition(b"\n")
    if not start.startswith(_FORMAT) or not end:
        raise ValueError("not a result")
    header = json.loads(line)
    try:
        names, lengths, digest = header["names"], header["lengths"], header["digest"]
        files = header["files"].items()
        complete = len(_FORMAT) + len(line) + 1 + sum(lengths) == size and min(lengths) >= 0
    except (AttributeError, KeyError, TypeError, ValueError):
        complete = False
    if not complete:
        raise ValueError("a part is missing")
    if any(stamp(path) != was for path, was in files):
        raise ValueError("a file that it refers to has changed")
    file.seek(len(_FORMAT) + len(line) + 1)
    body = [_read(file, length) for length in lengths]
    if _digest(body) != digest:
        raise ValueError("it has changed")
    stream, *buffers = (memoryview(part) for part in body)
    return unpickle_values(names, stream, buffers)


def _read(file: BinaryIO, length: int) -> bytearray:
    part = bytearray(length)
    view, done = memoryview(part), 0
    while done < length:
        count = file.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends too early")
        done += count
    return part


def _digest(parts: list[bytearray]) -> str:
    """Digest all parts: a disk that fills, or a machine that stops, leaves files with holes."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return str(digest.hexdigest())
