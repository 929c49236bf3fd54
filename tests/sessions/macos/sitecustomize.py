"""First on the path of every process, this has the package believe that it is on macOS.

Its code is compiled with ``"darwin"`` for ``sys.platform``, and what only Linux's Python has is
taken away from `os` and `signal`. The standard library and other packages stay those of Linux, so
this is no macOS; but every branch is taken that would be taken there, and a call without one fails.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - with all that it finds on Linux
import os
import select
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType

import psutil  # noqa: F401 - the same

_LINUX_ONLY = {
    os: ("memfd_create", "pidfd_open", "splice", "eventfd", "pipe2", "copy_file_range"),
    signal: ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"),
    select: ("epoll",),
}


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compile it each time: what is cached was compiled for Linux."""
        path = self.get_filename(fullname)
        source = self.get_data(path).replace(b"sys.platform", b"str('darwin')")
        source = source.replace(b'"lo0"', b'"lo"')  # the network is Linux's, whatever we believe
        return self.source_to_code(source, path)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Find modules of this package alone."""
        if fullname.partition(".")[0] != "flyte_jupyter":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


for module, names in _LINUX_ONLY.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.meta_path.insert(0, _Finder())
