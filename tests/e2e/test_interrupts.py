"""The stop button: KeyboardInterrupt in the remote code, and a new driver for what ignores it."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import DASK
from tests.notebook import DEADLINE, task

BUSY = {
    "time.sleep": "import time\nprint('in')\ntime.sleep(600)",
    "await asyncio.sleep": "import asyncio\nprint('in')\nawait asyncio.sleep(600)",
    "a loop": "print('in')\nwhile True: pass",
    "a lock": "import threading\nprint('in')\nlock = threading.Lock()\nwith lock: lock.acquire()",
    "a process": "import subprocess\nprint('in', flush=True)\nsubprocess.run(['sleep', '600'])",
    "a gather": (
        "import asyncio\nprint('in')\nawait asyncio.gather(asyncio.sleep(600), asyncio.sleep(601))"
    ),
    "a gather of what blocks": (
        "import asyncio, time\nasync def f():\n    print('in')\n    time.sleep(600)\n"
        "await asyncio.gather(f(), f())"
    ),
    "an await in a function": (
        "import asyncio\nasync def f():\n    print('in')\n    await asyncio.Event().wait()\n"
        "await f()"
    ),
}
IGNORING = """
import time
print("in")
while True:
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        print("ignored")
"""


def driver_of(book) -> str:
    return book.task("import os\nprint(os.getpid())").stdout.strip()


@pytest.mark.parametrize("body", BUSY.values(), ids=BUSY)
def test_an_interrupt_ends_the_cell_and_not_the_driver(plain, body):
    driver = driver_of(plain)
    cell = plain.submit(task(body))
    plain.until_printed(cell, "in\n")
    plain.interrupt()
    error = plain.wait(cell).error
    assert error.name == "KeyboardInterrupt"
    assert len(cell.of("error")) == 1
    assert driver_of(plain) == driver


def test_the_traceback_of_an_interrupt_shows_where_it_struck(plain):
    cell = plain.submit(task("import time\nprint('in')\nfor _ in range(10):\n    time.sleep(600)"))
    plain.until_printed(cell)
    plain.interrupt()
    assert "----> 5     time.sleep(600)" in plain.wait(cell).error.traceback


def test_clean_up_code_of_the_cell_runs(plain):
    cell = plain.submit(
        task("import time\ntry:\n    print('in')\n    time.sleep(600)\nfinally:\n    print('out')")
    )
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "KeyboardInterrupt"
    assert cell.stdout == "in\nout\n"


def test_a_cell_may_catch_the_interrupt_and_return(plain):
    cell = plain.submit(
        task(
            """
            import time
            try:
                print("in")
                time.sleep(600)
            except KeyboardInterrupt:
                caught = True
            """,
            "-o caught",
        )
    )
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error is None
    assert plain.value("caught") is True


def test_a_second_interrupt_replaces_the_driver(plain):
    driver = driver_of(plain)
    plain.task("kept = [1]", "-r kept")
    cell = plain.submit(task(IGNORING))
    plain.until_printed(cell)
    plain.interrupt()
    plain.until_printed(cell, "ignored")
    plain.interrupt()
    error = plain.wait(cell).error
    assert error.name == "DriverLost"
    assert "stopped and restarted" in error.value
    assert driver_of(plain) != driver
    assert plain.fail("kept.get()").name == "RefLost"


def test_a_driver_that_ignores_an_interrupt_is_replaced_in_time(plain):
    plain.run("%config FlyteJupyter.interrupt_grace = 0.3")
    cell = plain.submit(task(IGNORING))
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "DriverLost"
    plain.run("%config FlyteJupyter.interrupt_grace = 10.0")
    assert plain.task("1").result == "1"


def test_a_driver_that_is_deaf_to_signals_is_replaced(plain):
    plain.run("%config FlyteJupyter.interrupt_grace = 0.3")
    body = """
    import signal, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("in")
    time.sleep(600)
    """
    cell = plain.submit(task(body))
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "DriverLost"
    plain.run("%config FlyteJupyter.interrupt_grace = 10.0")
    assert plain.task("1").result == "1"


def test_an_interrupt_between_cells_harms_nothing(plain):
    driver = driver_of(plain)
    plain.interrupt()
    assert driver_of(plain) == driver


def test_an_interrupt_of_a_plain_cell_leaves_a_background_run_alone(plain, tmp_path):
    gate = tmp_path / "gate"
    plain.run(f"gate = {str(gate)!r}")
    back = plain.task(
        "import os, time\nprint('in')\nwhile not os.path.exists(gate): time.sleep(0.01)\nended = 1",
        "-o ended --bg job",
    )
    plain.until_printed(back)
    cell = plain.submit("import time\nprint('in')\ntime.sleep(600)")
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "KeyboardInterrupt"
    gate.touch()
    assert plain.value("job.result(30)") == 1


def test_an_interrupt_while_waiting_for_a_turn(plain, tmp_path):
    gate = tmp_path / "gate"
    plain.run(f"gate = {str(gate)!r}")
    back = plain.task(
        "import os, time\nprint('in')\nwhile not os.path.exists(gate): time.sleep(0.01)",
        "--bg job",
    )
    plain.until_printed(back)
    # The line before the magic says that the kernel is past what it does before any cell.
    waiting = plain.submit(
        "print('begun', flush=True)\n"
        "get_ipython().run_cell_magic('flyte_task', 'env', 'print(\"never\")')"
    )
    plain.until_printed(waiting, "begun")
    plain.interrupt()
    assert plain.wait(waiting).error.name == "KeyboardInterrupt"
    gate.touch()
    plain.run("job.result(30)")
    assert waiting.stdout == "begun\n"


def test_an_interrupt_while_the_cluster_starts(own):
    own.run(DASK)
    cell = own.submit(task("import time\ntime.sleep(600)"))
    own.until(lambda: own.processes("scheduler"), what="the first process of the cluster")
    own.interrupt()
    assert own.wait(cell).error.name == "KeyboardInterrupt"
    assert own.task("2").result == "2"


def test_a_timed_out_run_is_interrupted(plain):
    driver = driver_of(plain)
    error = plain.fail(task("import time\ntime.sleep(600)", "--timeout 0.2"))
    assert error.name == "TaskTimeout"
    assert "longer than its 0.2 s" in error.value
    assert driver_of(plain) == driver


def test_a_run_that_ignores_its_time_limit_loses_its_driver(plain):
    plain.run("%config FlyteJupyter.interrupt_grace = 0.3")
    driver = driver_of(plain)
    error = plain.fail(task(IGNORING, "--timeout 0.2"), DEADLINE)
    assert error.name == "TaskTimeout"
    assert "was replaced" in error.value
    plain.run("%config FlyteJupyter.interrupt_grace = 10.0")
    assert driver_of(plain) != driver


def test_a_run_within_its_time_limit_is_left_alone(plain):
    assert plain.task("3", "--timeout 60").result == "3"


def test_a_timeout_can_be_caught_as_any_other(plain):
    plain.run(
        """
try:
    get_ipython().run_cell_magic(
        "flyte_task", "env --timeout 0.2", "import time\\ntime.sleep(600)"
    )
except TimeoutError:
    late = True
"""
    )
    assert plain.value("late") is True
