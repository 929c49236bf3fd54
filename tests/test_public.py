"""What is public, and that asking for it costs little."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flyte_jupyter

PUBLIC = [
    "CaptureError",
    "CellTask",
    "ClusterError",
    "ClusterLost",
    "ConnectorError",
    "DriverLost",
    "EngineError",
    "EnvironmentNotFound",
    "FlyteJupyter",
    "FlyteJupyterError",
    "ImageError",
    "JobFailed",
    "Ref",
    "RefLost",
    "RemoteError",
    "Run",
    "ServiceError",
    "Session",
    "TaskTimeout",
    "UsageError",
    "load_ipython_extension",
    "register_engine",
    "run",
    "session",
    "unload_ipython_extension",
    "with_runcontext",
]
HEAVY = {
    "dask",
    "distributed",
    "flyte",
    "flyteplugins",
    "ipywidgets",
    "kubernetes",
    "numpy",
    "pandas",
    "pyspark",
    "ray",
    "torch",
}


def imported_by(program):
    """Run a program in a process of its own; returns the top-level packages that it imported."""
    program += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_public_names_are_these():
    assert flyte_jupyter.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_can_be_imported_and_says_what_it_is(name):
    assert getattr(flyte_jupyter, name).__doc__


def test_every_error_has_the_one_root():
    errors = [getattr(flyte_jupyter, name) for name in PUBLIC]
    errors = [e for e in errors if isinstance(e, type) and issubclass(e, BaseException)]
    assert len(errors) == 15
    assert all(issubclass(error, flyte_jupyter.FlyteJupyterError) for error in errors)
    assert issubclass(flyte_jupyter.TaskTimeout, TimeoutError)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'flyte_jupyter' has no attribute 'nothing'"):
        _ = flyte_jupyter.nothing


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import flyte_jupyter") & (HEAVY | {"IPython", "zmq"}) == set()


def test_loading_the_extension_imports_nothing_heavy():
    load = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_line_magic('load_ext', 'flyte_jupyter')\n"
        "assert 'flyte_task' in shell.magics_manager.magics['cell']\n"
    )
    without = load.replace("flyte_jupyter", "autoreload").partition("assert")[0]
    assert (imported_by(load) - imported_by(without)) & HEAVY == set()


@pytest.mark.parametrize(
    "module",
    [
        "flyte_jupyter.backends.local.backend",
        "flyte_jupyter.driver.client",
        "flyte_jupyter.engines.dask.engine",
        "flyte_jupyter.engines.registry",
        "flyte_jupyter.sessions",
        "flyte_jupyter.widgets.progress",
        "flyte_jupyter.widgets.table",
    ],
)
def test_the_notebooks_side_imports_neither_flyte_nor_an_engine(module):
    assert imported_by(f"import {module}") & (HEAVY - {"numpy", "pandas"}) == set()


def test_the_supervisor_imports_neither_a_notebook_nor_an_engine():
    found = imported_by("import flyte_jupyter.backends.local.supervisor")
    assert found & (HEAVY | {"IPython", "ipykernel", "jupyter_client", "zmq"}) == set()


@pytest.mark.parametrize(
    ("seen", "fix", "text"),
    [
        ("", "", "it failed"),
        ("42", "", "it failed: 42"),
        ("", "Try this.", "it failed. Try this."),
        ("42", "Try this.", "it failed: 42. Try this."),
        ("exit code 1\n  a log", "Try this.", "it failed: exit code 1\n  a log\nTry this."),
    ],
)
def test_an_error_is_one_sentence_that_survives_pickling(seen, fix, text):
    import pickle

    error = flyte_jupyter.ClusterLost("it failed", seen=seen, fix=fix)
    again = pickle.loads(pickle.dumps(error))
    assert str(error) == str(again) == text
    assert type(again) is flyte_jupyter.ClusterLost
    (line,) = error._render_traceback_()
    assert line.endswith(f": {text}")
    assert "ClusterLost" in line


def test_the_function_is_no_folder_whatever_was_imported_before():
    code = (
        "from flyte_jupyter import CellTask, session; import flyte_jupyter.magics.extension\n"
        "import flyte_jupyter; assert callable(session) and flyte_jupyter.session is session"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
