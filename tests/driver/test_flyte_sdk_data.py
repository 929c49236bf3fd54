"""The private names of the SDK by which files and data frames need no `flyte.run`."""

from __future__ import annotations

import inspect

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
