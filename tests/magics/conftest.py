"""An IPython shell of this process with the extension loaded; nothing may be started by it."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests import leaks


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """The shell, with a plain and a Dask environment among its variables."""
    import flyte
    from flyteplugins.dask import Dask, WorkerGroup

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryAccessor.enabled = False
    config.FlyteJupyter.prewarm = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "flyte_jupyter")
    workers = WorkerGroup(number_of_workers=2)
    shell.user_ns["env"] = flyte.TaskEnvironment(name="plain-env")
    shell.user_ns["dask_env"] = flyte.TaskEnvironment(
        name="dask-env", plugin_config=Dask(workers=workers)
    )
    yield shell
    shell.run_line_magic("unload_ext", "flyte_jupyter")
    InteractiveShell.clear_instance()


@pytest.fixture
def idle(shell):
    """The shell, and the certainty that nothing of it was started when the test is over."""
    yield shell
    assert not list(leaks.marked())
    assert not leaks.folders()
    assert not shell._flyte_jupyter.session.clusters
    assert not shell._flyte_jupyter.session.runs
