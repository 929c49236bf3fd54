"""Becomes a program that is killed when its parent dies; run as a file by `start`.

A death signal outlives `execve`, and has to be asked for by the process that is to die. Asking
between `fork` and `execve` is not safe in a process with threads; a Python of its own that does
nothing else takes 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1
_LOOK = 0.2
_LINUX = sys.platform == "linux"


def start(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    output: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start a program that does not outlive this process, and to which Ctrl-C is nothing.

    Parameters
    ----------
    command, environ
        The program, and all of its environment.
    stdin
        As `subprocess.Popen` takes it.
    output
        Where its standard output and error go.
    """
    through = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    return subprocess.Popen(
        [*through, *command],
        env=dict(environ),
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def main() -> None:
    """Run as ``python trampoline.py PARENT COMMAND...``."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        os.execv(command[0], command)
    os._exit(stay(parent, command))


def stay(parent: int, command: Sequence[str]) -> int:
    """Start a program and stay beside it, where there is no death signal; returns its exit code."""
    child = os.posix_spawn(command[0], list(command), os.environ)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        if os.getppid() != parent:
            os.kill(child, signal.SIGKILL)
        time.sleep(_LOOK)


if __name__ == "__main__":
    main()
