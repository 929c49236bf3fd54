"""Notebooks for the end-to-end tests; those of a whole module are for tests that spare them."""

from __future__ import annotations

import pytest

from tests.notebook import Notebook, notebook

PLAIN = 'import flyte\nenv = flyte.TaskEnvironment(name="plain")'
DASK = """\
import flyte
from flyteplugins.dask import Dask, WorkerGroup
env = flyte.TaskEnvironment(
    name="dask", plugin_config=Dask(workers=WorkerGroup(number_of_workers=2))
)"""

GRACEFUL = """\
def stops_gracefully():
    import time
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        return "half"
    return "whole"
"""
"""A function that catches an interrupt, and returns what it has."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Notebook:
    """A notebook whose `env` is a plain environment."""
    with notebook(tmp_path_factory.mktemp("plain"), PLAIN) as book:
        yield book


@pytest.fixture(scope="module")
def dask(tmp_path_factory) -> Notebook:
    """A notebook whose `env` is a Dask environment of two workers, up already."""
    with notebook(tmp_path_factory.mktemp("dask"), DASK, "%flyte up env") as book:
        yield book


@pytest.fixture
def own(tmp_path) -> Notebook:
    """A notebook for one test that does it harm; `env` is a plain environment."""
    with notebook(tmp_path, PLAIN) as book:
        yield book
