"""Roles of toy clusters: what the processes of the tests' own engine do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def prepare(folder):
    return {"prepared_in": str(folder), "shared": "for all"}


def prepare_badly(folder):
    raise RuntimeError("no certificate today")


def serve(member):
    """Be ready with a few facts, and end when asked."""
    member.ready(pid=os.getpid(), args=dict(member.args), generation=member.generation)
    threading.Event().wait()


def follow(member):
    """Wait for a `serve` member first."""
    first = member.wait_for("server")
    member.ready(server=first["pid"])
    threading.Event().wait()


def ignore_sigterm(member):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(member)


def leave_at_once(member):
    print("nothing to do here")
    sys.exit(3)


def raise_at_once(member):
    raise ValueError("this role cannot be played")


def never_ready(member):
    threading.Event().wait()


def crash_when_ready(member):
    """Become ready, then die, each time."""
    member.ready()
    path = Path(member.folder) / f"crashed-{member.generation}"
    path.touch()
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_tree(member):
    """Leave a process that has left every group and session, and has a child itself."""
    subprocess.run([sys.executable, "-c", ESCAPE, str(member.folder / "escaped")], check=True)
    serve(member)


def retire(member):
    (member.folder / "retired").write_text(" ".join(member.args["members"]))


def draw(member):
    """Say which random numbers come next here."""
    import random

    import numpy as np

    member.ready(drawn=[random.random(), float(np.random.rand())])
    threading.Event().wait()


def stream_of_facts(member):
    """Say what this process looks like from inside."""
    member.ready(
        cwd=str(Path.cwd()),
        path=sys.path,
        session=os.getsid(0) == os.getpid(),
        stdin=os.readlink("/proc/self/fd/0"),
        environ={k: os.environ.get(k) for k in ("FLYTE_JUPYTER_CLUSTER", "TOY")},
    )
    threading.Event().wait()


ESCAPE = """
import os, subprocess, sys, pathlib
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
child = subprocess.Popen(["sleep", "600"])
path = pathlib.Path(sys.argv[1])
path.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
path.with_suffix(".new").rename(path)
child.wait()
"""
"""A program that double-forks into a session of its own, and starts a child there."""
