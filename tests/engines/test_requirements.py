"""An engine of which something is missing says so, with the command that installs it."""

from __future__ import annotations

import importlib.util
import re

import flyte
import pytest

from flyte_jupyter.engines.registry import engines
from flyte_jupyter.engines.requirements import require
from flyte_jupyter.errors import EngineError

NEEDED = [
    ("dask", "distributed"),
    ("dask", "cryptography"),
    ("dask", "flyteplugins.dask"),
    ("ray", "ray"),
    ("ray", "flyteplugins.ray"),
    ("spark", "pyspark"),
    ("spark", "flyteplugins.spark"),
    ("pytorch", "torch"),
    ("pytorch", "flyteplugins.pytorch"),
]


@pytest.mark.parametrize(("engine", "missing"), NEEDED)
def test_what_is_missing_is_named_with_the_command(monkeypatch, engine, missing):
    find = importlib.util.find_spec

    def without(name, package=None):
        return None if name == missing else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    line = rf"no module named '{re.escape(missing)}'.*pip install 'flyte-jupyter\[{engine}\]'"
    with pytest.raises(EngineError, match=line):
        engines()[engine].configure({})


def test_a_plugin_whose_parent_is_missing_too_is_missing():
    with pytest.raises(EngineError, match="the Toy engine is not installed"):
        require("Toy", "toy", "flyte", "nowhere_at_all.toy")
    assert flyte
