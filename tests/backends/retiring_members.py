"""Members of a toy cluster that hold something, and the ways in which they part with it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path


def hold(member):
    """Leave when told to, by a file, once there is nothing to hold any more."""
    left = member.folder / f"{member.role}-{member.index}.left"
    member.ready()
    while not left.exists():
        time.sleep(0.02)


def retire_when_told(member):
    """Take as long as the test likes to take from members what they hold."""
    Path(member.folder / "retiring").write_text(str(os.getpid()))
    while not (member.folder / "handed-over").exists():
        time.sleep(0.02)
    for name in member.args["members"]:
        (member.folder / f"{name}.left").touch()


def retire_in_vain(member):
    """Fail at once; nothing has been handed over."""
    (member.folder / "retiring").touch()
    raise ConnectionError("nobody is there to take it")


def retire_for_ever(member):
    """Do not even listen to who asks it to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (member.folder / "retiring").write_text(str(os.getpid()))
    threading.Event().wait()
