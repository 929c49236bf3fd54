"""An engine of which something is missing says so, with the command that installs it."""

from __future__ import annotations

import importlib.util
import re

import flyte
import pytest

from flyte_jupyter.engines import requirements
from flyte_jupyter.engines.registry import engines
from flyte_jupyter.engines.requirements import require, require_version, version_of
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


@pytest.mark.parametrize(
    ("engine", "old", "command"),
    [
        ("ray", "2.48.1", "'ray>=2.49'"),
        ("spark", "3.5.8", "'pyspark>=4'"),
        ("pytorch", "2.4.1+cpu", "'torch>=2.5'"),
    ],
)
def test_what_is_too_old_is_named_with_the_command(monkeypatch, engine, old, command):
    monkeypatch.setattr(requirements, "version_of", lambda package, origin: old)
    line = rf"or later: .* {re.escape(old)} is installed.*pip install {re.escape(command)}"
    with pytest.raises(EngineError, match=line):
        engines()[engine].configure({})


@pytest.mark.parametrize("version", ["2.5", "2.13.0+cpu", "10.0", "3", ""])
def test_what_is_new_enough_or_tells_nothing_is_let_pass(monkeypatch, version):
    monkeypatch.setattr(requirements, "version_of", lambda package, origin: version)
    require_version("PyTorch", "torch", 2, 5)


def test_versions_are_those_of_distributions():
    assert version_of("pytest", "") == pytest.__version__
    assert version_of("nowhere_at_all", "") == ""
