"""How a process of this package starts another that it alone speaks to."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence


def start_python(
    module: str, arguments: Sequence[str], environ: Mapping[str, str], *, stdout: int, stderr: int
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``python -m module FD ARGUMENTS``, where FD is its end of a channel.

    Parameters
    ----------
    module
        What to run.
    arguments
        What comes after the descriptor; anybody on the machine may read them.
    environ
        All of its environment.
    stdout, stderr
        Where it prints, as `subprocess.Popen` takes it.

    Returns
    -------
    tuple
        The process and this end of the channel.

    Raises
    ------
    OSError
        No process can be started; nothing is left open then.
    """
    ours, theirs = socket.socketpair()
    # Not -I: user sites and PYTHONPATH are the notebook's own; -P keeps its folder out, though,
    # where a module of the user's could take the place of one that is needed to start.
    command = [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments]
    try:
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # else Ctrl-C and Jupyter's killpg would hit it too
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours
