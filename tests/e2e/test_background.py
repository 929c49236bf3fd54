"""Runs in the background: their output, their results, and stopping them."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import PLAIN
from tests.notebook import plain as as_text
from tests.notebook import task

WAIT = """
import os, time
def pass_gate(path):
    while not os.path.exists(path):
        time.sleep(0.01)
"""


@pytest.fixture
def gate(plain, tmp_path):
    """A path on which `pass_gate(gate)` waits until it exists."""
    path = tmp_path / "gate"
    plain.run(f"{WAIT}\ngate = {str(path)!r}")
    yield path
    path.touch()


def test_output_goes_to_the_cell_that_started_the_run(plain, gate, tmp_path):
    body = """
    import sys
    print("first")
    pass_gate(gate)
    print("late"); print("also late", file=sys.stderr)
    display("shown late")
    "the result"
    """
    started = plain.run(task(body, "--bg job"))
    plain.until(lambda: started.stdout == "first\n")
    second = tmp_path / "second"
    other = plain.submit(f"print('mine')\npass_gate({str(second)!r})")
    plain.until(lambda: other.stdout == "mine\n")
    gate.touch()
    plain.until(lambda: started.result, what="the result of the background run")
    assert not other.done
    second.touch()
    plain.wait(other)
    assert other.shown == "mine\n"
    assert started.stdout == "first\nlate\n"
    assert started.stderr == "also late\n"
    assert started.displays[-1]["text/plain"] == "'shown late'"
    assert started.result == "'the result'"
    assert started.of("execute_result")[0]["execution_count"] == started.reply["execution_count"]


def test_a_named_run_is_waited_for_or_awaited(plain):
    cell = plain.task("answer = 42", "-o answer --bg job")
    assert cell.result == ""
    assert plain.value("job.result(), await job, job.state") == (42, 42, "succeeded")
    assert "succeeded" in plain.run("job").result


def test_an_unnamed_run_is_the_value_of_the_cell(plain):
    cell = plain.task("1", "--bg")
    shown = [content["data"]["text/plain"] for content in cell.of("execute_result")]
    assert any(text.startswith("<Run cell-") for text in shown)


def test_the_notebook_goes_on_while_it_runs(plain, gate):
    plain.task("pass_gate(gate)\ndone = True", "-o done --bg job")
    assert plain.value("job.done") is False
    assert plain.fail("job.result(timeout=0.01)").name == "TimeoutError"
    gate.touch()
    assert plain.value("job.result(30)") is True


def test_what_it_raises_is_raised_by_result(plain):
    plain.task("def f():\n    raise ValueError('in the back')\nf()", "--bg job")
    error = plain.fail("job.result()")
    assert (error.name, error.value) == ("ValueError", "in the back")
    assert "raise ValueError" in error.traceback
    assert "line 3" in error.traceback
    assert plain.value("repr(job.exception()), job.state") == (
        "ValueError('in the back')",
        "failed",
    )


def test_a_running_one_is_cancelled(plain, gate):
    cell = plain.task("print('in')\npass_gate(gate)", "--bg job")
    plain.until_printed(cell)
    driver = plain.process("driver").pid
    plain.run("job.cancel()")
    assert plain.fail("job.result(30)").name == "KeyboardInterrupt"
    assert plain.value("job.state") == "cancelled"
    assert plain.task("import os\nprint(os.getpid())").stdout.strip() == str(driver)


def test_a_queued_one_is_cancelled_and_the_running_one_is_not(plain, gate):
    cell = plain.task("print('in')\npass_gate(gate)\ndone = 1", "-o done --bg first")
    plain.until_printed(cell)
    queued = plain.task("print('never')", "--bg second")
    plain.run("second.cancel()")
    assert plain.fail("second.result(30)").name == "KeyboardInterrupt"
    assert plain.value("first.state, second.state") == ("running", "cancelled")
    gate.touch()
    assert plain.value("first.result(30)") == 1
    assert queued.stdout == ""


def test_runs_of_one_environment_take_turns_in_order(plain, tmp_path):
    log = tmp_path / "log"
    plain.run(f"log = {str(log)!r}")
    for n in range(4):
        plain.task(f"open(log, 'a').write('{n}')", f"--bg job{n}")
    plain.run("[job.result(30) for job in (job0, job1, job2, job3)]")
    assert log.read_text() == "0123"


def test_a_question_of_a_background_run_cannot_be_answered(plain):
    plain.task("input('who? ')", "--bg job")
    assert plain.fail("job.result(30)").name == "StdinNotImplementedError"


def test_the_list_of_runs(plain):
    plain.task("1", "--name counted")
    plain.fail(task("1/0", "--name broken"))
    shown = plain.run("%flyte runs -n 2").result
    assert [line.split()[0].split("-")[0] for line in shown.splitlines()] == [
        "run",
        "counted",
        "broken",
    ]
    assert "ZeroDivisionError: division by zero" in shown
    assert len(plain.run("%flyte runs -n 1").result.splitlines()) == 2


def test_what_a_thread_prints_late_goes_to_the_cell_that_started_it(plain, tmp_path):
    go = tmp_path / "go"
    body = (
        "import pathlib, threading, time\n"
        f"go = pathlib.Path({str(go)!r})\n"
        "def wait():\n"
        "    while not go.exists(): time.sleep(0.02)\n"
        "    print('from the thread')\n"
        "threading.Thread(target=wait).start()"
    )
    first = plain.run(task(body))
    second = plain.run(task(f"import time\nopen({str(go)!r}, 'w').close()\ntime.sleep(0.5)"))
    plain.until(lambda: first.stdout == "from the thread\n")
    assert second.stdout == ""


def test_a_failure_that_nobody_waits_for_is_shown_in_the_cell_that_started_it(plain):
    cell = plain.task("zero = 0\n1 / zero", "--bg")
    plain.until(lambda: "ZeroDivisionError" in cell.stderr, what="the error")
    assert "1 / zero" in as_text(cell.stderr)
    cell = plain.task("import time\ntime.sleep(0.2)\n1 / 0", "--bg job")
    assert plain.fail("job.result()").name == "ZeroDivisionError"
    plain.run("import time\ntime.sleep(0.2)")
    assert cell.stderr == ""


def test_a_missed_name_of_a_run_in_the_background_is_in_the_run(plain):
    plain.task("expected = 1", "-o expected --bg job")
    cell = plain.wait(plain.submit("expected"))
    assert "`expected` is a value of job" in cell.stderr


def test_a_task_cell_that_misses_a_name_of_another_gets_the_hint(plain):
    plain.task("unreturned = 1")
    cell = plain.wait(plain.submit(task("unreturned")))
    assert "return it with `-o unreturned`" in cell.stderr


def test_an_environment_declared_anew_does_not_end_its_run(plain, gate):
    plain.task("print('on')\npass_gate(gate)\nx = 1", "-o x --bg job")
    plain.run("env = flyte.TaskEnvironment(name='plain', env_vars={'A': '1'})")
    plain.until(lambda: plain.value("job.state") == "running")
    error = plain.fail(task("1"))
    assert "a run is under way on its cluster" in error.value
    plain.run(PLAIN)
    gate.touch()
    assert plain.value("job.result()") == 1
