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

#: Offsets of mappings are multiples of this: a page, 16 KiB on Apple's processors.
PAGE = mmap.ALLOCATIONGRANULARITY

# Python has no name for it. Without it the kernel may refuse a private mapping larger than the free
# memory although most of its pages are never written, and so never copied.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_FAILED = ctypes.c_void_p(-1).value

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


def map_private(fd: int, offset: int, length: int) -> memoryview:
    """Map a part of a file so that writing to it changes nothing but this mapping.

    Parameters
    ----------
    fd
        Descriptor opened for reading; it may be closed afterwards.
    offset
        Where the part starts, in bytes, a multiple of `PAGE`.
    length
        Bytes to map, at least 1, all of them inside the file: a page beyond its end would raise
        SIGBUS when touched.

    Returns
    -------
    memoryview
        Writable bytes. The mapping goes with the last object that refers to them.

    Raises
    ------
    OSError
        When the kernel refuses, for example because a process may hold no more mappings.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    address = _mmap(None, length, protection, flags, fd, offset)
    if address is None or address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    block = (ctypes.c_ubyte * length).from_address(address)
    # Not at exit: arrays may outlive the finalizers, and the mapping goes with the process anyway.
    weakref.finalize(block, _munmap, address, length).atexit = False
    return memoryview(block).cast("B")
