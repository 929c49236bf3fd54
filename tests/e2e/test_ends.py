"""However a kernel ends, nothing of what it started stays: no process, no folder, no socket."""

from __future__ import annotations

import os
import signal

import pytest

from tests import leaks
from tests.e2e.conftest import DASK, PLAIN
from tests.notebook import Notebook, task


def assert_nothing_of(pid: int) -> None:
    """Wait until no process and no folder of a kernel's clusters is left."""
    assert leaks.until(lambda: not list(leaks.marked(pid)), leaks.PATIENCE), list(leaks.marked(pid))
    mine = f"{pid}-"
    assert leaks.until(
        lambda: not [f for f in leaks.folders() if f.name.startswith(mine)], leaks.PATIENCE
    )


@pytest.fixture
def make(tmp_path):
    """Start notebooks that end with the test at the latest."""
    books = []

    def start(*cells: str, **options) -> Notebook:
        book = Notebook(tmp_path, **options)
        books.append(book)
        for cell in cells:
            book.run(cell)
        return book

    yield start
    for book in books:
        book.shutdown()


def test_a_kernel_killed_while_a_task_runs(make):
    book = make(DASK)
    cell = book.submit(
        task("import subprocess\nprint('in')\nsubprocess.run(['sleep', '600'], check=True)")
    )
    book.until_printed(cell)
    assert len(book.processes()) >= 6
    book.kill()
    assert_nothing_of(book.pid)


@pytest.mark.parametrize("moment", ["super", "zygote", "worker", "driver"])
def test_a_kernel_killed_while_its_cluster_starts(make, moment):
    book = make(DASK)
    book.submit(task("1"))
    assert leaks.until(lambda: book.processes(moment))
    book.kill()
    assert_nothing_of(book.pid)


def test_a_kernel_killed_while_its_cluster_is_scaled(make):
    book = make(DASK, "%flyte up env")
    book.submit("%flyte scale env 4")
    assert leaks.until(lambda: len(book.processes("worker")) > 2)
    book.kill()
    assert_nothing_of(book.pid)


def test_a_kernel_killed_while_its_cluster_is_taken_down(make):
    book = make(DASK, "%flyte up env")
    book.submit("%flyte down env")
    assert leaks.until(lambda: len(book.processes()) < 6)
    book.kill()
    assert_nothing_of(book.pid)


def test_a_forked_child_of_the_kernel_keeps_nothing_alive(make):
    book = make(PLAIN)
    book.task("1")
    # It inherits the kernel's end of the control channel, and lives on.
    book.run(
        "import os, time\nchild = os.fork()\nif not child:\n    time.sleep(600)\n    os._exit(0)"
    )
    child = book.value("child")
    try:
        book.kill()
        assert_nothing_of(book.pid)
        assert os.path.exists(f"/proc/{child}")
    finally:
        os.kill(child, signal.SIGKILL)


def test_supervisor_and_kernel_killed_together_are_swept_at_the_next_load(make):
    book = make(DASK, "%flyte up env")
    folder = [f for f in leaks.folders() if f.name.startswith(f"{book.pid}-")]
    book.process("super").send_signal(signal.SIGKILL)
    book.kill()
    assert len(folder) == 1
    # The folder remains: nobody was left to remove it.
    assert folder[0].exists()
    later = make(extension=False)
    cell = later.run("%load_ext flyte_jupyter")
    assert "Removed what was left of a cluster" in cell.stderr
    assert not folder[0].exists()
    assert_nothing_of(book.pid)
    assert later.run("%reload_ext flyte_jupyter").stderr == ""


def test_the_sweep_spares_the_clusters_of_living_kernels(make):
    first = make(PLAIN)
    driver = first.task("import os\nprint(os.getpid())").stdout
    second = make()
    assert "Removed" not in second.run("%reload_ext flyte_jupyter").stderr
    assert first.task("import os\nprint(os.getpid())").stdout == driver


def test_a_restart_of_the_kernel_leaves_nothing_of_the_old_one(make):
    book = make(PLAIN)
    book.task("1")
    before = book.pid
    book.restart()
    assert book.pid != before
    assert_nothing_of(before)
    book.run("%load_ext flyte_jupyter")
    book.run(PLAIN)
    assert book.task("2").result == "2"


def test_a_shut_down_kernel_leaves_nothing(make):
    book = make(DASK, "%flyte up env")
    book.submit(task("import time\ntime.sleep(600)", "--bg job"))
    book.shutdown()
    assert_nothing_of(book.pid)


def test_exit_in_a_cell_leaves_nothing(make):
    book = make(PLAIN)
    book.task("1")
    book.submit("exit()")
    assert leaks.until(lambda: not book.manager.is_alive())
    assert_nothing_of(book.pid)


def test_unloading_takes_everything_down(make):
    book = make(PLAIN)
    book.task("1")
    book.task("import time\ntime.sleep(600)", "--bg job")
    book.run("%unload_ext flyte_jupyter")
    assert_nothing_of(book.pid)
    unknown = book.wait(book.submit(task("1")))
    assert "flyte_task" in unknown.stderr
    assert "not found" in unknown.stderr
    book.run("%load_ext flyte_jupyter")
    assert book.task("2").result == "2"


def test_reloading_starts_afresh(make):
    book = make(PLAIN)
    book.task("kept = 1", "-r kept")
    old = {p.pid for p in book.processes()}
    book.run("%reload_ext flyte_jupyter")
    # What is there now is only what waits for the next cluster.
    assert not old & {p.pid for p in book.processes()}
    assert not book.processes("driver")
    assert book.fail("kept.get()").name == "RefLost"
    assert book.task("3").result == "3"


def test_a_kernel_killed_before_it_has_any_cluster(make):
    book = make(PLAIN)
    book.kill()
    assert_nothing_of(book.pid)


def test_taking_down_and_up_again(make):
    book = make(PLAIN)
    book.task("1")
    assert "stopped" in book.run("%flyte down").result
    assert_nothing_of(book.pid)
    assert book.run("%flyte down").result == "Nothing was up."
    assert "ready" in book.run("%flyte up env").result
    assert book.task("4").result == "4"


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(make):
    book = make(PLAIN)
    book.run("%config FlyteJupyter.start_timeout = 0.01")
    error = book.fail(task("1"))
    assert error.name == "ClusterError"
    assert "did not start within 0.01 s" in error.value
    assert_nothing_of(book.pid)
    book.run("%config FlyteJupyter.start_timeout = 60")
    assert book.task("5").result == "5"
