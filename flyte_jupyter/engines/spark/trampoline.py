"""Becomes another program that is killed when its parent dies; run as a file by `start`.

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
from collections.abc import Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
