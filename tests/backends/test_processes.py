"""Owning processes wholly."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from flyte_jupyter.backends.local import processes
from tests import leaks

MARK = "123-456-abcdef-of-a-test"


@pytest.fixture
def program():
    """Start a program whose environment bears a mark; it says when it runs."""
    started = []

    def start(code, mark=MARK):
        env = {**os.environ, processes.MARK: mark}
        process = subprocess.Popen(
            [sys.executable, "-c", f"print('up', flush=True)\n{code}"],
            env=env,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"up\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-9, "killed by SIGKILL"),
        (-11, "killed by SIGSEGV"),
        (-63, "killed by signal 63"),
    ],
)
def test_how_a_process_ended_is_said_in_words(status, text):
    assert processes.describe_exit(status) == text


def test_a_start_stamp_belongs_to_one_process(program):
    child = program("input()")
    stamp = processes.start_stamp(child.pid)
    assert stamp == processes.start_stamp(child.pid) > processes.start_stamp(os.getpid())
    child.kill()
    psutil_child = psutil.Process(child.pid)
    assert leaks.until(lambda: psutil_child.status() == psutil.STATUS_ZOMBIE)
    assert processes.start_stamp(child.pid) == 0, "dead, if not yet buried"
    child.wait()
    assert processes.start_stamp(child.pid) == 0


def test_a_start_stamp_is_read_past_a_name_with_brackets(program):
    child = program(
        "from flyte_jupyter.backends.local.processes import set_title\n"
        "set_title('a) S 1 (b')\nprint('named', flush=True)\nimport time; time.sleep(600)"
    )
    before = processes.start_stamp(child.pid)
    assert child.stdout.readline() == b"named\n"
    assert psutil.Process(child.pid).name().startswith("a) S 1 (b")
    assert processes.start_stamp(child.pid) == before


def test_a_title_is_cut_where_the_kernel_cuts_it(program):
    child = program(
        "from flyte_jupyter.backends.local.processes import set_title\n"
        "set_title('flyte:a-very-long-role-17')\nprint('named', flush=True)\n"
        "import time; time.sleep(600)"
    )
    assert child.stdout.readline() == b"named\n"
    with open(f"/proc/{child.pid}/comm") as file:
        assert file.read() == "flyte:a-very-lo\n"


def test_descendants_of_a_process_that_is_gone_are_none(program):
    child = program("")
    child.wait()
    assert processes.descendants(child.pid) == []
    assert processes.children(child.pid) == []


def test_killing_what_is_gone_already_is_no_error(program):
    child = program("import time; time.sleep(600)")
    process = psutil.Process(child.pid)
    assert processes.kill([process]) == 1
    child.wait()
    assert processes.kill([process]) == 0


def test_marked_processes_are_killed_and_no_others(program):
    code = "import time; time.sleep(600)"
    marked, other = program(code), program(code, "123-456-fedcba")
    assert [p.pid for p in processes.marked(MARK)] == [marked.pid]
    assert processes.kill_marked(MARK) == 1
    assert not psutil.pid_exists(marked.pid)
    assert other.poll() is None
    assert processes.kill_marked(MARK) == 0


def test_this_process_is_never_among_the_marked(monkeypatch):
    monkeypatch.setattr(psutil.Process, "environ", lambda self: {processes.MARK: MARK})
    assert os.getpid() not in [p.pid for p in processes.marked(MARK)]


def test_a_process_dies_with_its_parent():
    grandchild = (
        "import sys, time\n"
        "from flyte_jupyter.backends.local import processes\n"
        "processes.die_with_parent(int(sys.argv[1]))\n"
        "print('up', flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-c', {grandchild!r}, str(os.getpid())])\n"
            "print(child.pid, flush=True)\ntime.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    (pid,) = (int(line) for line in lines - {b"up"})
    process = psutil.Process(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    with contextlib.suppress(psutil.NoSuchProcess):
        process.wait(20)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_whose_parent_is_dead_already_exits():
    code = (
        "import os\nfrom flyte_jupyter.backends.local import processes\n"
        "processes.die_with_parent(os.getppid() + 1)\nprint('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
