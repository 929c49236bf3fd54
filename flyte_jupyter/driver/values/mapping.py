"""Copy-on-write mappings that hold no file descriptor.

`mmap.mmap` keeps a duplicate of the descriptor for as long as the mapping lives (until Python 3.13,
where that can be switched off). A notebook that holds a thousand results would so run into the
usual limit of 1024 open files, which is why the C call is made here directly.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from typing import TYPE_CHECKING, NamedTuple

from flyte_jupyter.driver.values.aside import WORTH_A_THREAD, aside, give_back

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Offsets of mappings are multiples of this: a page, 16 KiB on Apple's processors.
PAGE = mmap.ALLOCATIONGRANULARITY

# Python has no name for it. Without it the kernel may refuse a private mapping larger than the free
# memory although most of its pages are never written, and so never copied.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value
# Python has no name for this either; systems that do not know it answer with an error.
_MADV_POPULATE_READ = 22 if sys.platform == "linux" else -1

_STEP = 8 << 20
_MOST_AHEAD = 4 << 30

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_munmap = _libc.munmap
_munmap.restype = ctypes.c_int
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_madvise = _libc.madvise
_madvise.restype = ctypes.c_int
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class FilePart(NamedTuple):
    """A part of a file.

    Attributes
    ----------
    fd
        Descriptor opened for reading; it may be closed once the part is mapped.
    offset
        Where the part starts, in bytes, a multiple of `PAGE`.
    length
        Bytes to map, at least 1, all of them inside the file: a page beyond its end would raise
        SIGBUS when touched.
    """

    fd: int
    offset: int
    length: int


def map_private(parts: Sequence[FilePart], *, ahead: bool = True) -> memoryview:
    """Map parts of files, one after the other, so that writing changes nothing but this mapping.

    Parameters
    ----------
    parts
        At least one; the lengths of all but the last are multiples of `PAGE`.
    ahead
        Whether to have the pages of a large mapping entered at once, as it will be read soon.

    Returns
    -------
    memoryview
        Writable bytes. The mapping goes with the last object that refers to them.

    Raises
    ------
    OSError
        When the kernel refuses, for example because a process may hold no more mappings.
    """
    length = sum(part.length for part in parts)
    address = _map_part(parts[0]) if len(parts) == 1 else _map_parts(parts, length)
    block = (ctypes.c_ubyte * length).from_address(address)
    # Not at exit: arrays may outlive the finalizers, and the mapping goes with the process anyway.
    weakref.finalize(block, give_back, length, _munmap, address, length).atexit = False
    if ahead and length >= WORTH_A_THREAD:
        aside(_read_ahead, weakref.ref(block), address, length)
    return memoryview(block).cast("B")


def _read_ahead(alive: weakref.ref[object], address: int, length: int) -> None:
    """Enter the pages of a mapping into the process's table, as reading each of them would.

    That takes 0.12 s/GiB and blocks no other thread. From the end, for who reads from the start
    meets it in the middle.
    """
    for end in range(length, max(length - _MOST_AHEAD, 0), -_STEP):
        block = alive()  # holds the mapping for as long as this step takes
        start = max(end - _STEP, 0)
        if block is None or _madvise(address + start, end - start, _MADV_POPULATE_READ):
            return


def _map_parts(parts: Sequence[FilePart], length: int) -> int:
    """Reserve addresses for all, so that nothing else comes to lie there, then fill them."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    # Protection 0: no access, and so nothing for the kernel to account for.
    start = _checked(_mmap(None, length, 0, flags, -1, 0))
    at = start
    try:
        for part in parts:
            at = _map_part(part, at) + part.length
    except BaseException:
        _munmap(start, length)
        raise
    return start


def _map_part(part: FilePart, address: int | None = None) -> int:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE | (_MAP_FIXED if address else 0)
    return _checked(_mmap(address, part.length, protection, flags, part.fd, part.offset))


def _checked(address: int | None) -> int:
    if address is None or address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return address
