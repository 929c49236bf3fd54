"""`flyte.io` where values cross as they are.

The SDK turns what a task takes and returns into literals, and leaves to `flyte.run` much of what
files, folders and data frames need of it. Here nothing is turned into anything.
"""

from __future__ import annotations

from typing import Any

import flyte
from flyte import _initialize
from flyte.io import DataFrame, File
from flyte.types import TypeEngine


def initialize_on_demand() -> None:
    """Have the SDK initialized in this process when something first asks for that."""
    initialized = _initialize.is_initialized

    def is_initialized() -> bool:
        if not initialized():
            flyte.init()
        return True

    _initialize.is_initialized = is_initialized


def make_files_uninitialized() -> None:
    """Have files made without the SDK being initialized, which all else still asks for.

    What they need of it they do without. To initialize it, as a driver does, is not for a notebook:
    there `flyte.deploy` is to say that it is not configured.
    """
    for name in ("new_remote", "named_remote", "from_local", "from_local_sync"):
        make = getattr(File, name).__func__
        if checked := getattr(make, "__wrapped__", None):
            setattr(File, name, classmethod(checked))


def open_unwritten_frames() -> None:
    """Have a `DataFrame` that was never written open as the one that it holds."""
    if DataFrame.all is _all:
        return
    global _all_written
    _all_written, DataFrame.all = DataFrame.all, _all  # type: ignore[method-assign]


_all_written: Any = None


async def _all(self: Any) -> Any:
    wanted = self._dataframe_type
    if self.literal is None and self.val is not None and wanted is not None:
        if isinstance(self.val, wanted):
            return self.val
        await self._set_literal(TypeEngine.to_literal_type(DataFrame))  # read as another type
    return await _all_written(self)
