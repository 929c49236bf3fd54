"""Starting a process that only this one speaks to."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from flyte_jupyter.backends.local.python_process import start_python

PROGRAM = """
import json, os, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
said = {
    "arguments": sys.argv[2:],
    "environ": os.environ.get("FJ_TEST"),
    "leads": os.getsid(0) == os.getpid(),
    "here": os.getcwd() in sys.path or "" in sys.path,
    "stdin": sys.stdin.read(),
}
print("out", flush=True)
print("err", file=sys.stderr, flush=True)
channel.sendall(json.dumps(said).encode())
"""


def open_files():
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """An environment in which a module `fj_told` is found, and a folder in which one lies, too."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "fj_told.py").write_text(PROGRAM)
    (tmp_path / "fj_told.py").write_text("raise SystemExit('the folder was searched')")
    monkeypatch.chdir(tmp_path)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "path"), "FJ_TEST": "told"}


def test_it_speaks_over_its_channel_and_prints_where_it_is_told_to(environ):
    process, sock = start_python(
        "fj_told", ["a", "b c"], environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with process, sock, sock.makefile("rb") as file:
        said = json.loads(file.read())
        assert process.stdout.read() == b"out\nerr\n"
    assert process.returncode == 0
    assert said == {
        "arguments": ["a", "b c"],
        "environ": "told",
        "leads": True,
        "here": False,
        "stdin": "",
    }


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at open files as Linux does")
@pytest.mark.parametrize("wrong", ["a null", "no interpreter"])
def test_one_that_cannot_be_started_leaves_no_descriptor(environ, monkeypatch, wrong):
    if wrong == "a null":
        environ, error = {**environ, "FJ_TEST": "\0"}, ValueError
    else:
        monkeypatch.setattr("sys.executable", "/nowhere/python")
        error = OSError
    before = open_files()
    with pytest.raises(error):
        start_python("fj_told", [], environ, stdout=-1, stderr=-1)
    assert open_files() == before
