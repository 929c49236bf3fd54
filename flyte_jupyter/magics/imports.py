"""Parts of Flyte that are made fit for a notebook, when the notebook has imported them.

This module is loaded with the extension: it imports nothing that is not loaded anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from IPython.core.getipython import get_ipython


class AfterImport:
    """Stands on `sys.meta_path`, and calls a function after the import of a module.

    Parameters
    ----------
    actions
        What to call, by the module's name. It is called in the import, so that whoever imports the
        module never has it without that.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]) -> None:
        self._actions = dict(actions)

    def install(self) -> None:
        """Begin to watch, and make up for what has been imported before."""
        sys.meta_path.insert(0, self)
        for name in [name for name in self._actions if name in sys.modules]:
            self._actions.pop(name)()

    def remove(self) -> None:
        """Watch no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find one of the modules; called by Python's import system."""
        if fullname not in self._actions:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                if action := self._actions.pop(fullname, None):
                    action()

            loader.exec_module = execute_and_act
        return spec


def free_files() -> None:
    """Have files of `flyte.io` made without `flyte.init()`."""
    from flyte_jupyter.driver.flyte_sdk.data import make_files_uninitialized

    make_files_uninitialized()


def fit_tasks() -> None:
    """Have tasks remember their overrides, and maps and agents run theirs on clusters."""
    from flyte_jupyter.driver.flyte_sdk.overrides import note_overrides
    from flyte_jupyter.driver.flyte_sdk.plain_calls import run_on_clusters

    note_overrides()
    run_on_clusters(_caller)


def _caller() -> Callable[..., Any] | None:
    """Return what calls a task on its cluster, while the extension is loaded."""
    import flyte_jupyter

    loaded = getattr(get_ipython(), "_flyte_jupyter", None)
    return flyte_jupyter.run if loaded is not None else None


ACTIONS: Mapping[str, Callable[[], None]] = {"flyte": fit_tasks, "flyte.io": free_files}
"""What is done in a notebook, by the module that has to be imported before."""
