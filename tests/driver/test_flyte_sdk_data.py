"""The private names of the SDK by which files and data frames need no `flyte.run`."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pandas as pd
from flyte import _initialize
from flyte.io import DataFrame
from flyte.types import TypeEngine

from flyte_jupyter.driver.flyte_sdk import data


def test_what_is_replaced_is_there():
    assert not inspect.signature(_initialize.is_initialized).parameters
    assert inspect.iscoroutinefunction(DataFrame.all)
    assert inspect.iscoroutinefunction(DataFrame._set_literal)
    assert list(inspect.signature(DataFrame._set_literal).parameters) == ["self", "expected"]


FILES = """
from flyte import _initialize
from flyte.io import File
from flyte_jupyter.driver.flyte_sdk.data import make_files_uninitialized
checking = _initialize.requires_initialization(len).__code__
names = ["new_remote", "named_remote", "from_local", "from_local_sync"]
assert all(getattr(File, name).__code__ is checking for name in names)
make_files_uninitialized()
assert not any(getattr(File, name).__code__ is checking for name in names)
assert all(getattr(File, name).__self__ is File for name in names)
make_files_uninitialized()
assert File.from_local_sync(__file__).path == __file__
"""


def test_files_are_made_by_class_methods_that_want_the_sdk_initialized(tmp_path):
    (tmp_path / "files.py").write_text(FILES)  # this process may have changed them already
    subprocess.run([sys.executable, str(tmp_path / "files.py")], check=True)


def test_a_frame_that_was_never_written_has_what_is_looked_at():
    held = pd.DataFrame({"x": [1]})
    frame = DataFrame.from_df(held) if hasattr(DataFrame, "from_df") else DataFrame(val=held)
    opened = frame.open(pd.DataFrame)
    assert opened.val is held
    assert opened.literal is None
    assert opened._dataframe_type is pd.DataFrame
    assert TypeEngine.to_literal_type(DataFrame) is not None


async def test_it_opens_as_what_it_holds(monkeypatch):
    monkeypatch.setattr(DataFrame, "all", DataFrame.all)
    monkeypatch.setattr(data, "_all_written", None)
    data.open_unwritten_frames()
    held = pd.DataFrame({"x": [1]})
    frame = DataFrame.from_df(held) if hasattr(DataFrame, "from_df") else DataFrame(val=held)
    assert await frame.open(pd.DataFrame).all() is held
