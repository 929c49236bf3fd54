"""What every test runs under: folders of its own, and a look at what it left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests import leaks


def pytest_configure(config: pytest.Config) -> None:
    """Point Jupyter and IPython at a private place, before anything of theirs is imported."""
    # Short, for the path of a Unix socket ends at 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="fj-", dir="/tmp"))
    config.stash[_ROOT] = root
    for variable, name in _FOLDERS.items():
        folder = root / name
        folder.mkdir(mode=0o700)
        os.environ[variable] = str(folder)
    os.environ.pop("JUPYTERHUB_SERVICE_PREFIX", None)
    os.environ["DO_NOT_TRACK"] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that place."""
    shutil.rmtree(config.stash[_ROOT], ignore_errors=True)


_ROOT = pytest.StashKey[Path]()
_FOLDERS = {
    "JUPYTER_RUNTIME_DIR": "r",
    "JUPYTER_CONFIG_DIR": "c",
    "JUPYTER_DATA_DIR": "d",
    "IPYTHONDIR": "i",
}


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_by_module():
    """Fail a module whose own fixtures leave something behind."""
    before = leaks.look()
    yield
    if left := leaks.await_nothing(before):
        pytest.fail("left behind by the fixtures of this module:\n" + "\n".join(left))


@pytest.fixture(autouse=True)
def _nothing_left(_nothing_left_by_module):
    """Fail a test that leaves something behind which no living fixture owns."""
    before = leaks.look()
    yield
    if left := leaks.await_nothing(before):
        pytest.fail("left behind by this test:\n" + "\n".join(left))
