"""Drivers that die, and runs that are tried again."""

from __future__ import annotations

import os
import signal

import pytest

from tests.notebook import task

ENDS = {
    "os._exit(3)": ("import os\nos._exit(3)", "exit code 3"),
    "SIGKILL": ("import os\nos.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "segfault": ("import ctypes\nctypes.string_at(0)", "killed by SIGSEGV"),
    "abort": ("import os\nos.abort()", "killed by SIGABRT"),
}


@pytest.mark.parametrize(("body", "how"), ENDS.values(), ids=ENDS)
def test_a_dead_driver_is_one_error_and_replaced_at_once(plain, body, how):
    plain.task("kept = 1", "-r kept")
    cell = plain.wait(plain.submit(task(body)))
    assert len(cell.of("error")) == 1
    assert cell.error.name == "DriverLost"
    assert how in cell.error.value
    assert plain.task("6 * 7").result == "42"
    assert plain.fail("kept.get()").name == "RefLost"
    assert how in plain.run("%flyte status env").result


def test_the_last_words_of_a_dead_driver_are_shown(plain):
    error = plain.fail(task("import ctypes\nctypes.string_at(0)"))
    assert "driver.log: Fatal Python error: Segmentation fault" in error.value
    later = plain.fail(task("import os\nos._exit(1)"))
    assert "Segmentation fault" not in later.value


def test_what_was_printed_before_the_end_is_in_the_log(plain):
    plain.fail(task("import os, sys\nprint('before', flush=True)\nos._exit(1)"))
    assert plain.run("%flyte logs").result == "before"


def test_a_driver_that_dies_between_cells_is_replaced_unnoticed(plain):
    plain.task("1")
    driver = plain.process("driver")
    driver.kill()
    plain.until(lambda: "SIGKILL" in plain.run("%flyte status env").result, what="its end")
    assert plain.task("2").result == "2"


def test_children_of_a_dead_driver_die_with_it(plain):
    cell = plain.wait(
        plain.submit(
            task(
                """
                import os, subprocess
                child = subprocess.Popen(["sleep", "600"], start_new_session=True)
                print(child.pid, flush=True)
                import time; time.sleep(0.1)
                os._exit(1)
                """
            )
        )
    )
    assert cell.error.name == "DriverLost"
    child = int(plain.run("%flyte logs").result)
    plain.until(lambda: not os.path.exists(f"/proc/{child}"), what="the child to go")


def test_all_runs_that_wait_survive_the_driver_before_them(plain):
    plain.task("import os, time\ntime.sleep(0.3)\nos._exit(5)", "--bg first")
    plain.task("result = 11", "-o result --bg second")
    assert plain.value("second.result(60)") == 11
    assert "exit code 5" in plain.fail("first.result()").value


def test_a_failure_is_tried_again(plain, tmp_path):
    plain.run(f"count = {str(tmp_path / 'count')!r}")
    body = """
    with open(count, "a") as file:
        file.write("x")
    tries = len(open(count).read())
    if tries < 3:
        raise ValueError(tries)
    """
    cell = plain.task(body, "-o tries --retries 3 --name again")
    assert plain.value("tries") == 3
    assert cell.stderr.count("more attempt") == 2


def test_the_last_failure_is_the_error(plain, tmp_path):
    plain.run(f"count = {str(tmp_path / 'count')!r}")
    body = "open(count, 'a').write('x')\nraise ValueError(open(count).read())"
    error = plain.fail(task(body, "--retries 2"))
    assert (error.name, error.value) == ("ValueError", "xxx")


def test_a_dead_driver_is_a_failure_to_be_tried_again(plain, tmp_path):
    plain.run(f"count = {str(tmp_path / 'count')!r}\nsent = list(range(10))")
    body = """
    import os
    open(count, "a").write("x")
    if len(open(count).read()) < 2:
        os._exit(1)
    total = sum(sent)
    """
    plain.task(body, "-o total --retries 1")
    assert plain.value("total") == 45


def test_an_interrupted_run_is_not_tried_again(plain, tmp_path):
    plain.run(f"count = {str(tmp_path / 'count')!r}")
    body = "import time\nopen(count, 'a').write('x')\nprint('in')\ntime.sleep(600)"
    cell = plain.submit(task(body, "--retries 5"))
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "KeyboardInterrupt"
    assert (tmp_path / "count").read_text() == "x"


def test_many_crashes_in_a_row_are_survived(plain):
    for _ in range(6):
        assert plain.fail(task("import os\nos._exit(1)")).name == "DriverLost"
    assert plain.task("1").result == "1"


def test_a_lost_cluster_is_a_failure_to_be_tried_again_on_a_new_one(plain, tmp_path):
    plain.run(f"count = {str(tmp_path / 'count')!r}\nsent = list(range(10))")
    body = """
    import time
    open(count, "a").write("x")
    print("in")
    if len(open(count).read()) < 2:
        time.sleep(600)
    total = sum(sent)
    """
    cell = plain.submit(task(body, "-o total --retries 1"))
    plain.until_printed(cell)
    plain.process("super").send_signal(signal.SIGKILL)
    assert "1 more attempt" in plain.wait(cell).stderr
    assert plain.value("total") == 45
    assert plain.task("2").result == "2"


def test_a_killed_supervisor_is_an_error_and_leaves_nothing(plain):
    plain.task("1")
    cell = plain.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    plain.until_printed(cell)
    plain.process("super").send_signal(signal.SIGKILL)
    error = plain.wait(cell).error
    assert error.name == "ClusterLost"
    assert "SIGKILL" in error.value
    plain.until(lambda: not plain.processes(), what="all processes to go")
    assert plain.task("2").result == "2"
