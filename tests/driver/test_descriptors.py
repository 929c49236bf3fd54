"""What is written to a driver's descriptors is read in the end, whenever the driver dies."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

import pytest

from flyte_jupyter.driver.output.descriptors import KeptPipe, PresentLog, Remains, crash_path

DRIVER = """
import os, pathlib, signal, sys
from flyte_jupyter.driver.output.descriptors import KeptPipe, PresentLog, crash_path

folder = pathlib.Path(sys.argv[1])
pipes = {name: KeptPipe(folder, 1, name) for name in ("stdout", "stderr")}
present = PresentLog(folder, 1)

def put(name, data):
    os.write(pipes[name].write_end, data)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

print("ready", flush=True)
input()
"""
"""A process that has what a driver has; what it does then is added."""


@pytest.fixture
def last_words(tmp_path):
    """Let a driver do something and die; returns what is in its log then."""

    def run(code):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{DRIVER}\n{code}", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        remains = Remains(tmp_path, 1)
        process.communicate("\n")
        assert process.returncode in (0, -signal.SIGKILL)
        remains.save(tmp_path / "driver.log")
        return (tmp_path / "driver.log").read_text()

    return run


def test_what_nobody_has_read_is_read_afterwards(last_words):
    assert last_words("put('stderr', b'an assertion failed\\n'); die()") == "an assertion failed\n"


def test_what_the_reader_had_in_its_hands_is_not_lost(last_words):
    assert last_words("put('stderr', b'in its hands\\n'); pipes['stderr'].take(die)") == (
        "in its hands\n"
    )


def test_what_has_been_handed_on_is_not_repeated(last_words):
    code = "put('stdout', b'said'); pipes['stdout'].take(print); put('stdout', b'not'); die()"
    assert last_words(code) == "not\n"


def test_what_is_in_hands_comes_before_what_is_in_the_pipe(last_words):
    code = """
def take(data):
    put("stderr", b"second")
    die()

put("stderr", b"first ")
pipes["stderr"].take(take)
"""
    assert last_words(code) == "first second\n"


def test_a_child_that_holds_the_pipe_is_not_waited_for(last_words):
    code = """
put("stderr", b"of the driver")
if os.fork():
    die()
os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # not what the test reads
os.write(2, b"")
import time; time.sleep(2)
"""
    assert last_words(code) == "of the driver\n"


def test_the_log_of_the_present_run_has_it_too(last_words, tmp_path):
    for name in ("a-run-with-a-long-name.log", "run.log"):
        (tmp_path / name).write_text("printed before\n")
    code = f"""
folder = pathlib.Path({str(tmp_path)!r})
present.note(folder / "a-run-with-a-long-name.log")
present.note(folder / "run.log")
put("stderr", b"and then")
die()
"""
    crash_path(tmp_path, 1).write_text("Fatal Python error: Aborted\n")
    assert last_words(code) == "and then\nFatal Python error: Aborted\n"
    assert (tmp_path / "run.log").read_text() == "printed before\nand then\n"
    assert (tmp_path / "a-run-with-a-long-name.log").read_text() == "printed before\n"
    assert {path.name for path in tmp_path.iterdir()} == {
        "driver.log",
        "run.log",
        "a-run-with-a-long-name.log",
    }


def test_where_python_crashed_begins_a_line_whatever_was_logged_before(last_words, tmp_path):
    (tmp_path / "driver.log").write_text("rows > 0")
    (tmp_path / "run.log").write_text("rows > 0")
    crash_path(tmp_path, 1).write_text("Fatal Python error: Aborted\n")
    code = f"present.note(pathlib.Path({str(tmp_path / 'run.log')!r})); die()"
    assert last_words(code) == "rows > 0\nFatal Python error: Aborted\n"
    assert (tmp_path / "run.log").read_text() == "rows > 0"


def test_a_driver_that_died_before_it_made_anything_leaves_nothing(tmp_path):
    Remains(tmp_path, 3).save(tmp_path / "driver.log")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["spliced", "read"])
def pipe(tmp_path, monkeypatch, request):
    """Make a pipe, of a platform with and one without `splice`."""
    if request.param == "read":
        monkeypatch.delattr(os, "splice", raising=False)
    made = KeptPipe(tmp_path, 1, "stdout")
    yield made
    for fd in (made.write_end, made._read, made._held):
        os.close(fd)


def test_what_is_written_is_handed_on_whole_and_in_order(pipe):
    data = os.urandom(300_000)
    # Without giving up Python's lock, as C code does: nobody can read meanwhile.
    assert ctypes.PyDLL(None).write(pipe.write_end, data, len(data)) == len(data)
    taken = []
    while sum(map(len, taken)) < len(data):
        pipe.take(taken.append)
    assert b"".join(taken) == data
    assert os.fstat(pipe._held).st_size == 0


def test_all_that_was_written_has_been_handed_on_when_it_has_settled(pipe):
    taken, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            pipe.take(taken.append)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(200):
        os.write(pipe.write_end, b"%d\n" % number)
        pipe.settle()
        assert b"".join(taken).endswith(b"%d\n" % number)
    ended.set()
    os.write(pipe.write_end, b"\n")
    thread.join()


def test_a_writer_that_never_stops_is_not_waited_for(pipe):
    os.write(pipe.write_end, b"nobody reads this")
    pipe.settle()


def test_only_the_owner_can_read_what_is_kept(pipe, tmp_path):
    PresentLog(tmp_path, 1).note(tmp_path / "run.log")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
