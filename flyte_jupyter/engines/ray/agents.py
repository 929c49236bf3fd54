"""The process that becomes a node's agent: forked before the node, when Ray has been imported.

Only a script is run here, by its path and with the command line that Ray made: no name of Ray's is
used.
"""

from __future__ import annotations

import ctypes
import gc
import marshal
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

CLIENT = Path(__file__).with_name("agent_client.py")
_LENGTH = 8
_PR_SET_PDEATHSIG = 1


def command() -> list[str]:
    """Return what stands in the place of ``python`` before the script of an agent."""
    return [sys.executable, "-S", "-E", os.fspath(CLIENT)]


def await_order(path: Path) -> None:
    """Fork a process that becomes what `agent_client.py` asks for, and ends when this one does.

    Parameters
    ----------
    path
        Of the socket at which it listens, in a folder that only the owner can enter.
    """
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.fspath(path))
    server.listen(1)
    parent = os.getpid()
    if os.fork():
        server.close()
        return
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            gc.freeze()
            _become(server)
            code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 0
    except BaseException:  # noqa: BLE001 - the last frame of a process: its log must say why
        traceback.print_exc()
    finally:
        os._exit(code)


def _become(server: socket.socket) -> None:
    client, _ = server.accept()
    server.close()
    data, fds, _, _ = socket.recv_fds(client, 1 << 20, 3)
    while len(data) < _LENGTH or len(data) < _LENGTH + int.from_bytes(data[:_LENGTH], "little"):
        more = client.recv(1 << 20)
        if not more:
            return
        data += more
    words, environ = marshal.loads(data[_LENGTH:])  # noqa: S302 - from our own script
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[:] = words
    sys.path.insert(0, os.path.dirname(words[0]))  # noqa: PTH120 - as text
    runpy.run_path(words[0], run_name="__main__")
