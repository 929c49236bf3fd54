"""What has changed around the notebook since a cluster began, for its tasks to follow."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection

from IPython.core.getipython import get_ipython

from flyte_jupyter.driver.wire import Around

_OURS = "flyte_jupyter"


class Surroundings:
    """The notebook's search path and environment as a cluster's processes begin with them.

    Parameters
    ----------
    own
        Variables that the cluster declares: there they are not the notebook's.
    """

    def __init__(self, own: Collection[str] = ()) -> None:
        self.path = list(sys.path)
        self._environ = dict(os.environ)
        self._own = frozenset(own)

    def changes(self) -> Around:
        """Return what is otherwise now, and where the notebook works."""
        around: Around = {"cwd": os.getcwd()}  # noqa: PTH109 - as text
        if sys.path != self.path:
            around["path"] = list(sys.path)
        now = dict(os.environ)
        if now != self._environ:
            before = self._environ
            around["environ"] = {
                name: (before.get(name), now.get(name))
                for name in sorted(before.keys() | now.keys())
                if before.get(name) != now.get(name) and name not in self._own
            }
        shell = get_ipython()
        if shell is not None and (loaded := set(shell.extension_manager.loaded) - {_OURS}):
            around["extensions"] = sorted(loaded)
        return around
