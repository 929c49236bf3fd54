"""Results on their way to the cache: beside the session's loop, and whole or not at all."""

from __future__ import annotations

import os
import threading

import pytest
from cached_runs import entries, run, submit, with_folder

from flyte_jupyter import FlyteJupyter, Session
from tests import leaks


@pytest.fixture
def session(caching, tmp_path):
    return with_folder(caching, tmp_path / "results")


SLOW = """
import os, pathlib
class Slow:
    def __init__(self, gate, notebook): self.gate, self.notebook = gate, notebook
    def __getstate__(self):
        import os, time
        if os.getpid() == self.notebook:
            open(self.gate + '.reached', 'w').close()
            while not os.path.exists(self.gate): time.sleep(0.005)
        return self.__dict__
y = Slow(gate, notebook)
"""


@pytest.fixture
def gate(tmp_path):
    """Where a value waits, when the notebook pickles it, until a file is there."""

    class Gate:
        path = tmp_path / "gate"

        @property
        def reached(self):
            return (tmp_path / "gate.reached").exists()

        def open(self):
            self.path.write_text("")

    made = Gate()
    yield made
    made.open()
    assert leaks.until(lambda: not _threads())


def _threads():
    return [t for t in threading.enumerate() if t.name == "flyte-jupyter-beside"]


def slow(session, gate):
    values = {"gate": str(gate.path), "notebook": os.getpid()}
    return submit(session, SLOW, values=values)


def test_the_session_goes_on_while_a_result_is_pickled(session, gate, tally):
    first = slow(session, gate)
    assert leaks.until(lambda: gate.reached)
    assert run(session, tally, "y = 2", "disable") == (2, "succeeded")
    assert not first.done, "its value is not the user's to change yet"
    gate.open()
    assert type(first.result(60)).__name__ == "Slow"
    assert slow(session, gate).state == "cached"


def test_an_interrupt_ends_the_pickling_and_not_the_run(session, gate):
    first = slow(session, gate)
    assert leaks.until(lambda: gate.reached)
    first.cancel()
    assert type(first.result(10)).__name__ == "Slow"
    assert first.state == "succeeded"
    assert not gate.path.exists()
    gate.open()
    assert leaks.until(lambda: not _threads())
    assert entries(session) == []


def test_a_run_submitted_while_its_result_is_pickled_waits_for_it(session, gate):
    first = slow(session, gate)
    assert leaks.until(lambda: gate.reached)
    second = []
    waiting = threading.Thread(target=lambda: second.append(slow(session, gate)))
    waiting.start()
    assert not first.done
    gate.open()
    waiting.join(60)
    assert second[0].state == "cached"
    assert first.state == "succeeded"


def closing(tmp_path, monkeypatch, piece):
    """Close a session while `piece` is being written, and return what it said."""
    said, reached = [], threading.Event()

    def write(file, data, stop):
        reached.set()
        piece(file, data, stop)

    monkeypatch.setattr("flyte_jupyter.sessions.result_folder._write", write)
    session = Session(FlyteJupyter(cache_folder=str(tmp_path / "results")), {}, said.append)
    assert submit(session, "y = 5").result(60) == 5
    assert reached.wait(10)
    session.close()
    assert leaks.until(lambda: not _threads())
    return said


def test_a_write_comes_to_its_end_when_the_session_is_closed(tmp_path, monkeypatch):
    from flyte_jupyter.sessions import result_folder

    late, write = threading.Event(), result_folder._write

    def slowly(file, data, stop):
        late.wait(0.05)
        write(file, data, stop)

    assert closing(tmp_path, monkeypatch, slowly) == []
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_write_that_takes_too_long_is_given_up_when_the_session_is_closed(tmp_path, monkeypatch):
    from flyte_jupyter.sessions.result_folder import Abandoned

    never = threading.Event()

    def endless(file, data, stop):
        while not stop():
            never.wait(0.01)
        raise Abandoned

    (line,) = closing(tmp_path, monkeypatch, endless)
    assert line.endswith("not cached: the session was closed before it was written")
    assert list((tmp_path / "results").iterdir()) == []
