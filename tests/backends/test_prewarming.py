"""A supervisor that imports ahead: who gets it, who does not, and that it never outstays."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from flyte_jupyter.backends.local.launching import WarmSupervisor
from tests import leaks

LIGHT = ("json",)


@pytest.fixture
def warm():
    supervisor = WarmSupervisor()
    yield supervisor
    supervisor.discard()


def test_a_warm_supervisor_is_taken_once_and_not_made_again(warm):
    warm.preload(LIGHT, sys.path)
    taken = warm.take({})
    try:
        assert taken is not None
        assert taken.process.poll() is None
        assert warm.take({}) is None
        warm.preload(LIGHT, sys.path)
        assert warm.take({}) is None
    finally:
        taken.end()


def test_variables_of_the_environment_make_a_cluster_start_cold(warm):
    warm.preload(LIGHT, sys.path)
    assert warm.take({"OMP_NUM_THREADS": "1"}) is None


def test_variables_that_the_notebook_has_set_meanwhile_make_it_start_cold(warm, monkeypatch):
    warm.preload(LIGHT, sys.path)
    monkeypatch.setenv("SET_MEANWHILE", "1")
    assert warm.take({}) is None


def test_one_that_has_died_is_not_taken(warm):
    warm.preload(LIGHT, sys.path)
    process = warm._waiting.process
    process.kill()
    process.wait()
    assert warm.take({}) is None
    warm._taken = False
    leaks.until(lambda: not list(leaks.marked(os.getpid())), leaks.PATIENCE)
    for folder in leaks.folders():
        subprocess.run(["rm", "-r", folder], check=True)  # a sweep's work, and tested there


def test_discarding_ends_it_and_its_zygote(warm):
    warm.preload(LIGHT, sys.path)
    pid = warm._waiting.process.pid
    assert leaks.until(lambda: psutil.Process(pid).children(), leaks.PATIENCE)
    warm.discard()
    assert not psutil.pid_exists(pid)
    assert leaks.until(lambda: not list(leaks.marked(os.getpid())), leaks.PATIENCE)


def test_a_module_that_is_not_there_does_no_harm(warm):
    warm.preload(("no_such_module_anywhere",), sys.path)
    taken = warm.take({})
    assert taken is not None
    taken.end()


def test_importing_flyte_in_a_kernel_starts_it_and_the_kernels_death_ends_it():
    code = (
        "import os, psutil, time\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_line_magic('load_ext', 'flyte_jupyter')\n"
        "assert not psutil.Process().children()\n"
        "import flyte\n"
        "while not psutil.Process().children(recursive=True)[1:]: time.sleep(0.05)\n"
        "print(os.getpid(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    pid = int(done.stdout)
    assert leaks.until(lambda: not list(leaks.marked(pid)), leaks.PATIENCE)
