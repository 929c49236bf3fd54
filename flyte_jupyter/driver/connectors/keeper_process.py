"""The keeper's process. It imports next to nothing as long as it has nothing to do."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flyte_jupyter.driver.connectors.keeper import LIFE


def main() -> None:
    """Run as ``python -m flyte_jupyter.driver.connectors.keeper_process FD``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with contextlib.suppress(OSError):  # a name for `ps`, where that is how it is given
        Path("/proc/self/comm").write_text("flyte:keeper")
    jobs: dict[int, bytes] = {}
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        sock.sendall(b"!")
        for kind, content in _messages(sock):
            if kind == "place":
                folder, path = content
                sys.path[:] = path
                with contextlib.suppress(OSError):
                    os.chdir(folder)
            elif kind == "keep":
                jobs[content[0]] = content[1]
            elif kind == "release":
                jobs.pop(content, None)
            elif kind == "delete":
                _deleting(jobs, content)
    signal.alarm(LIFE)  # whatever happens from here on, it is short
    threads = [_deleting(jobs, name) for name in list(jobs)]
    for thread in threads:
        thread.join()
    os._exit(0)


def _messages(sock: socket.socket) -> Iterator[tuple[str, Any]]:
    """Yield what the driver says; what it was killed in the middle of does not count."""
    with sock.makefile("rb") as stream:
        while len(head := stream.read(8)) == 8:
            size = int.from_bytes(head, "little")
            data = stream.read(size)
            if len(data) < size:
                return
            yield pickle.loads(data)


def _deleting(jobs: dict[int, bytes], name: int) -> threading.Thread:
    thread = threading.Thread(target=_delete, args=(jobs, name), daemon=True)
    thread.start()
    return thread


def _delete(jobs: dict[int, bytes], name: int) -> None:
    """Delete a job, which is kept until that has been done."""
    import asyncio

    if job := jobs.get(name):
        known, meta = pickle.loads(job)
        connector, secrets = pickle.loads(known)
        asyncio.run(connector.delete(resource_meta=meta, **secrets))
        jobs.pop(name, None)


if __name__ == "__main__":
    main()
