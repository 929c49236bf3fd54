"""What is kept of what runs printed, and what is not."""

from __future__ import annotations

import gc
import os

import flyte
import pytest

from flyte_jupyter import CellTask, Session
from flyte_jupyter.sessions import run_logs
from flyte_jupyter.sessions.run_logs import RunLog, keep_within_bounds
from tests import leaks


@pytest.fixture
def write(tmp_path):
    """Write the log of a run as a driver does, and return it; ended unless said otherwise."""
    (tmp_path / "logs").mkdir()

    def write(run, text, ended=True):
        (tmp_path / "logs" / f"run-{run}.log").write_text(text)
        log = RunLog(run)
        log.keep(tmp_path)
        log.ended = ended
        return log

    return write


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "logs").iterdir())


def test_a_log_goes_with_its_record(write, tmp_path):
    before = leaks.descriptors()
    log = write("a", "text")
    assert log.read() == "text"
    assert len(leaks.descriptors() - before) == 1
    del log
    gc.collect()
    assert files(tmp_path) == []
    assert not leaks.descriptors() - before


def test_a_log_outlives_its_folder(write, tmp_path):
    log = write("a", "text")
    (tmp_path / "logs" / "run-a.log").unlink()
    assert log.read() == "text"


def test_a_forked_child_removes_no_log_of_its_parent(write, tmp_path):
    log = write("a", "text")
    pid = os.fork()
    if not pid:
        log.__del__()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert files(tmp_path) == ["run-a.log"]


def test_what_was_never_printed_is_no_lost_log(tmp_path):
    log = RunLog("a")
    assert log.read() == ""
    log.keep(tmp_path)
    log.drop()
    log.release()
    assert log.read() == ""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run-a.log").write_text("late")
    assert log.read() == "late"


def test_the_last_bytes_may_begin_within_a_letter(write):
    assert write("a", "ä" * 3).read(last=3) == "�ä"


def test_only_so_many_logs_take_a_descriptor(write, tmp_path, monkeypatch):
    monkeypatch.setattr(run_logs, "OPEN_LOGS", 2)
    before = leaks.descriptors()
    logs = [write(str(n), f"text {n}") for n in range(4)]
    keep_within_bounds(reversed(logs))
    assert len(leaks.descriptors() - before) == 2
    assert [log.read() for log in logs] == [f"text {n}" for n in range(4)]
    assert len(leaks.descriptors() - before) == 2
    for name in files(tmp_path):
        (tmp_path / "logs" / name).unlink()
    assert logs[3].read() == "text 3"
    assert logs[0].read() == (
        "[the log of 0 went with its cluster: those of the last 2 runs are kept beyond that]\n"
    )


def test_the_oldest_logs_go_when_all_together_are_too_large(write, tmp_path, monkeypatch):
    monkeypatch.setattr(run_logs, "LOG_BYTES", 2500)
    logs = [write(str(n), "x" * 1000) for n in range(4)]
    keep_within_bounds(reversed(logs))
    assert files(tmp_path) == ["run-2.log", "run-3.log"]
    assert logs[0].read().startswith("[the log of 0 was removed: ")
    assert logs[2].read() == "x" * 1000
    logs.append(write("huge", "x" * 5000))
    keep_within_bounds(reversed(logs))
    assert files(tmp_path) == ["run-huge.log"], "the last one is kept whatever its size"


def test_a_log_that_is_still_written_to_is_never_removed(write, tmp_path, monkeypatch):
    monkeypatch.setattr(run_logs, "LOG_BYTES", 10)
    logs = [write("old", "x" * 100), write("runs", "x" * 100, ended=False), write("new", "x")]
    keep_within_bounds(reversed(logs))
    assert files(tmp_path) == ["run-new.log", "run-runs.log"]


# -- in a session ---------------------------------------------------------------------------------


def run(session, code, **task):
    made = session.submit("plain", CellTask(code, **task))
    session.wait(made)
    return made


def log_files(session):
    folder = session.cluster("plain").folder / "logs"
    return {path.name for path in folder.glob("run-*")}


def test_a_million_lines_are_all_in_the_log(session, sink):
    code = "print('\\n'.join(f'line {n}' for n in range(500_000)))\n"
    code += "for n in range(500_000, 1_000_000): print('line', n)"
    made = session.submit("plain", CellTask(code), sink=sink)
    session.wait(made)
    text = made.log()
    assert text.count("\n") == 1_000_000
    assert text == "".join(f"line {n}\n" for n in range(1_000_000))
    assert len(sink.text) < len(text) / 2


def test_what_fell_off_the_list_of_runs_leaves_no_file(monkeypatch):
    monkeypatch.setattr("flyte_jupyter.sessions.runner._RUNS_KEPT", 3)
    session = Session(namespace={"plain": flyte.TaskEnvironment(name="plain_env")})
    try:
        held = run(session, "print('held')")
        ids = [run(session, f"print({n})").id for n in range(5)]
        assert [record.id for record in session.runs] == ids[-3:]
        gc.collect()
        assert log_files(session) == {f"run-{name}.log" for name in (held.id, *ids[-3:])}
        assert held.log() == "held\n"
        session.down()
        assert [record.log() for record in session.runs] == ["2\n", "3\n", "4\n"]
    finally:
        session.close()


def test_what_runs_leave_on_the_disk_does_not_grow(session):
    def size():
        folder = session.cluster("plain").folder
        return sum(1 for path in folder.rglob("*") if not path.name.startswith("run-"))

    run(session, "x = 1", returns=("x",))
    before = size()
    for n in range(20):
        run(session, f"x = {n}\nx", returns=("x",))
    assert size() == before


def test_an_error_that_cannot_be_shown_here_ends_its_run(session):
    code = (
        "import os\nclass Odd(Exception):\n    def __str__(self):\n"
        f"        return 1 / 0 if os.getpid() == {os.getpid()} else 'odd'\nraise Odd"
    )
    made = session.submit("plain", CellTask(code))
    assert leaks.until(lambda: made.done)
    assert type(made.exception()).__name__ == "Odd"
    assert made.state == "failed"
    assert made.record.error == "Odd: (it cannot be shown)"


def test_the_first_line_of_a_long_error_is_cut(session):
    made = session.submit("plain", CellTask("raise ValueError('x' * 100_000)"))
    with pytest.raises(ValueError, match="x" * 1000):
        made.result(30)
    assert len(made.record.error) == 500
