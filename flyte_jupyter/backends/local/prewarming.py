"""Starting to import when the notebook does.

Declaring an environment imports Flyte and an engine's plugin, which takes the kernel a good half
second of one core. The moment that begins, a process beside it begins to import what the cluster
will need, so that it is there when the first task cell asks for it. A notebook that never imports
Flyte pays nothing.

This module is loaded with the extension: it imports nothing that is not loaded anyway.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_FLYTE, _PLUGINS = "flyte", "flyteplugins."


class ImportWatcher:
    """Stands first on `sys.meta_path`, finds nothing, and sees every import."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def install(self) -> None:
        """Begin to watch, and make up for what has been imported before."""
        sys.meta_path.insert(0, self)
        for name in [n for n in sys.modules if _matters(n)]:
            self._sight(name)

    def remove(self) -> None:
        """Watch no more, and end what was started for nothing."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self._seen:
            from flyte_jupyter.backends.local.launching import warm

            warm.discard()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Look at what is being imported; called by Python's import system."""
        del path, target
        if _matters(fullname):
            self._sight(fullname)
        return None

    def _sight(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        # Not on this thread, which is busy importing.
        threading.Thread(target=_preload_for, args=(name,), name="prewarm", daemon=True).start()


def _matters(name: str) -> bool:
    return name == _FLYTE or (name.startswith(_PLUGINS) and name.count(".") == 1)


def _preload_for(name: str) -> None:
    from flyte_jupyter.backends.local.launching import DRIVER_PRELOAD, warm

    if name == _FLYTE:
        warm.preload(DRIVER_PRELOAD, sys.path)
        return
    from flyte_jupyter.engines.registry import engines

    for engine in engines().values():
        if engine.config_type.startswith(f"{name}."):
            modules = [*getattr(engine, "preload", ()), *getattr(engine, "driver_preload", ())]
            warm.preload(modules, sys.path)
