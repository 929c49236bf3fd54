"""Runs whose inputs are packed again: after a failure, or for another driver than they were for."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from flyte_jupyter import CellTask
from tests import leaks


class Slow:
    """A value that waits, from the second time on that the notebook pickles it."""

    def __init__(self, folder):
        self.times, self.reached = 0, threading.Event()
        self.gate, self.thread = threading.Event(), None
        self.folder = folder

    def __reduce__(self):
        self.times += 1
        self.thread = threading.current_thread()
        if self.times > 1:
            self.reached.set()
            assert self.gate.wait(60)
        return str, ("slow",)


@pytest.fixture
def slow(tmp_path):
    made = Slow(tmp_path)
    yield made
    made.gate.set()
    assert leaks.until(lambda: not _threads())


def _threads():
    return [t for t in threading.enumerate() if t.name == "flyte-jupyter-beside"]


def _memory():
    """Return the shared memory that this process holds."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if "memfd" in target:
            found.append(fd)
    return found


FAILS_ONCE = (
    "import pathlib\npath = pathlib.Path(where)\n"
    "if not path.exists():\n    path.touch()\n    raise ValueError('first')\n"
    "y = (slow, x.sum())"
)


def submit(session, slow, **task):
    values = {"slow": slow, "x": np.ones(1_000_000), "where": str(slow.folder / "tried")}
    return session.submit(
        "plain", CellTask(FAILS_ONCE, values=values, retries=1, returns=("y",), **task)
    )


def test_the_session_goes_on_while_inputs_are_packed_again(make_session, slow):
    import flyte

    session = make_session()
    other = session.declare(flyte.TaskEnvironment(name="other_env"))
    made = submit(session, slow)
    assert slow.reached.wait(60)
    assert slow.thread is not threading.main_thread()
    beside = session.submit(other.declared, CellTask("x = 1", returns=("x",)))
    assert beside.result(60) == 1
    assert not made.done
    slow.gate.set()
    assert made.result(60) == ("slow", 1_000_000)
    assert made.attempts == 2
    assert leaks.until(lambda: not _memory())


def test_an_interrupt_does_not_wait_for_inputs_that_are_packed_again(make_session, slow):
    session = make_session()
    made = submit(session, slow)
    assert slow.reached.wait(60)
    made.cancel()
    with pytest.raises(KeyboardInterrupt, match="stopped before it ran"):
        made.result(30)
    assert not slow.gate.is_set()
    assert made.state == "cancelled"
    again = session.submit("plain", CellTask("x = 1", returns=("x",)))
    assert again.result(60) == 1, "its turn has passed on"
    slow.gate.set()
    assert leaks.until(lambda: not _threads() and not _memory())


def test_a_driver_that_is_replaced_meanwhile_gets_a_parcel_of_its_own(make_session, slow):
    session = make_session()
    made = submit(session, slow)
    assert slow.reached.wait(60)
    times = slow.times
    session.restart("plain")
    slow.gate.set()
    assert made.result(60) == ("slow", 1_000_000)
    assert slow.times == times + 1, "what was packed for the driver before was packed again"
    assert leaks.until(lambda: not _memory())


def test_local_modules_travel_by_value_when_they_are_packed_again(
    make_session, tmp_path, monkeypatch
):
    import importlib

    import cloudpickle

    (tmp_path / "fj_again.py").write_text("def f():\n    return 'by value'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("fj_again")
    session = make_session()
    session.ready(session.up("plain"))
    (tmp_path / "fj_again.py").unlink()
    before = cloudpickle.list_registry_pickle_by_value()
    code = f"where = {str(tmp_path / 'tried')!r}\n" + FAILS_ONCE.rpartition("\n")[0] + "\ny = f()"
    made = session.submit(
        "plain", CellTask(code, values={"f": module.f}, retries=1, returns=("y",))
    )
    assert made.result(60) == "by value"
    assert made.attempts == 2
    assert cloudpickle.list_registry_pickle_by_value() == before


def test_a_ref_is_packed_again_for_its_own_driver(make_session, tmp_path):
    session = make_session()
    kept = session.submit("plain", CellTask("big = [1, 2, 3]", keeps=("big",)))
    ref = session.wait(kept)
    code = f"where = {str(tmp_path / 'tried')!r}\n" + FAILS_ONCE.rpartition("\n")[0] + "\ny = big"
    made = session.submit("plain", CellTask(code, values={"big": ref}, retries=1, returns=("y",)))
    assert made.result(60) == [1, 2, 3]
    assert made.attempts == 2
