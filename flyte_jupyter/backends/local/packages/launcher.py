"""Running another program so that nothing of it outlives who wanted it.

It ends, with all that it has started, when this process's input does: that is so when whoever
started this process closes it, and when that dies.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

from flyte_jupyter.backends.local import processes

_TURN = 0.05
_GRACE = 2.0
"""Seconds that an interrupted program has to clean up."""


def main() -> None:
    """Run as ``python -m flyte_jupyter.backends.local.packages.launcher COMMAND...``."""
    processes.adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing is unsafe here in between: this process has no threads.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_hear)  # noqa: PLW1509
    wanted = True
    while child.poll() is None and wanted:
        readable, _, _ = select.select([0], [], [], _TURN)
        wanted = not readable or bool(os.read(0, 1))
    if not wanted:
        child.send_signal(signal.SIGINT)
        end = time.monotonic() + _GRACE
        while child.poll() is None and time.monotonic() < end:
            time.sleep(_TURN)
    while left := processes.descendants(os.getpid()):
        processes.kill(left)
        processes.reap()
    sys.exit(child.returncode or 0)


def _hear() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
