"""The keeper's process. It imports next to nothing as long as it has nothing to do."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flyte_jupyter.driver.connectors.keeper import LIFE


def main() -> None:
    """Run as ``python -m flyte_jupyter.driver.connectors.keeper_process FD``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a name for `ps`, where that is how it is given
        Path("/proc/self/comm").write_text("flyte:keeper")
    jobs: dict[int, bytes] = {}
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        for kind, content in _messages(sock):
            if kind == "place":
                folder, path = content
                os.chdir(folder)
                sys.path[:] = path
            elif kind == "keep":
                jobs[content[0]] = content[1]
            else:
                jobs.pop(content, None)
    signal.alarm(LIFE)  # whatever happens from here on, it is short
    if jobs:
        _delete(list(jobs.values()))
    os._exit(0)


def _messages(sock: socket.socket) -> Iterator[tuple[str, Any]]:
    with sock.makefile("rb") as stream:
        while len(head := stream.read(8)) == 8:
            data = stream.read(int.from_bytes(head, "little"))
            yield pickle.loads(data)


def _delete(jobs: list[bytes]) -> None:
    import asyncio

    async def delete(job: bytes) -> None:
        connector, meta, secrets = pickle.loads(job)
        await connector.delete(resource_meta=meta, **secrets)

    async def delete_all() -> None:
        results = await asyncio.gather(*map(delete, jobs), return_exceptions=True)
        for error in filter(None, results):
            print(f"a job was not deleted: {error!r}", file=sys.stderr, flush=True)

    asyncio.run(delete_all())


if __name__ == "__main__":
    main()
