"""Dask's `progress` as the last expression of a cell, as its documentation has it."""

from __future__ import annotations

import pytest

from tests.e2e.test_comms import opened, updates

PROGRESS = """
import os, time
from distributed import Client, progress

def work(n, gate):
    while not os.path.exists(gate):
        time.sleep(0.02)

client = Client()
futures = client.map(work, range(8), gate=gate, pure=False)
progress(futures)
"""


@pytest.fixture(autouse=True)
def _forget(dask):
    dask.comms.clear()


@pytest.fixture
def gate(dask, tmp_path):
    """What the computation waits for, so that the cell ends before it does."""
    path = tmp_path / "gate"
    dask.run(f"gate = {str(path)!r}")
    return path


def values(book) -> list[float]:
    """Return how full the bar has been, one after the other."""
    comm = opened(book, "FloatProgressModel")["comm_id"]
    return [state["value"] for state in updates(book, comm) if "value" in state]


def bar_is_there(book) -> bool:
    return any("FloatProgressModel" in str(message["content"]) for message in book.comms)


def test_the_bar_fills_while_the_notebook_is_idle(dask, gate):
    assert dask.task(PROGRESS).displays
    dask.until(lambda: bar_is_there(dask), what="the bar")
    assert 1.0 not in values(dask)
    gate.touch()
    dask.until(lambda: 1.0 in values(dask), what="the bar to be full")


def test_looking_at_a_ref_meanwhile_does_no_harm(dask, gate):
    dask.task("kept = 5\n" + PROGRESS, "-r kept")
    assert dask.value("kept.get()") == 5
    dask.until(lambda: bar_is_there(dask), what="the bar")
    gate.touch()
    dask.until(lambda: 1.0 in values(dask), what="the bar to be full")
