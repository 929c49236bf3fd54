"""The place where the nodes of one start of a group meet: a file, as torch's `FileStore` has it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


class Meeting:
    """A folder with the file in it, which nobody can make anew once it is closed.

    A store makes its file whenever it finds none, and the agent of a node that has just been told
    to end looks into it until it is gone. So a file that is only unlinked may come back.

    Parameters
    ----------
    folder
        Where it is to be; there is nothing yet.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self.store = folder / "store"

    def close(self) -> None:
        """Take the folder away, first by its name alone: then no path leads into it any more."""
        over = self._folder.with_name(f"over-{self._folder.name}")
        with contextlib.suppress(OSError):  # it is closed; the session's folder goes in any case
            self._folder.rename(over)
            shutil.rmtree(over)
