"""The supervisor: one small process a cluster, which lives as long as its kernel and no longer.

It runs the cluster's operator, and takes everything down when the kernel asks, when the kernel is
gone, or when it is told to end. It holds nothing of the user's: no engine, no notebook code, no
thread; so there is little in it that could fail.

The kernel is watched twice. The control channel ends when the kernel does, unless a forked child of
the kernel holds a copy of it; and the kernel's pid is watched for that case.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

from flyte_jupyter.backends.local import processes
from flyte_jupyter.backends.local.cluster_operator import ClusterOperator, Launch
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder
from flyte_jupyter.backends.local.zygote_process import ZygoteProcess

_LOG_READING = 2.0
"""Seconds that the kernel has to read the logs of a cluster that failed."""


_IDLE = 900.0
"""Seconds that a warm supervisor waits for a cluster; then its memory is worth more."""


async def kernel_gone(kernel: int) -> None:
    """Return when the kernel's process has ended, even if a child of it keeps its sockets open."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(kernel)
    except (AttributeError, OSError):  # not Linux, or gone already
        while os.getppid() == kernel:
            await asyncio.sleep(0.5)
        return
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    if os.getppid() == kernel:  # else the pid may be somebody else's by now
        await ended.wait()
    loop.remove_reader(fd)
    os.close(fd)


async def supervise(sock: socket.socket, kernel: int, folder: RuntimeFolder) -> None:
    """Run one cluster from the kernel's first message to the last process of it."""
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**26)
    line = await reader.readline()
    if not line:
        return
    processes.adopt_orphans()
    folder.create()
    gone = asyncio.get_running_loop().create_task(kernel_gone(kernel))
    try:
        zygote, launch = await _warm_up(line, reader, folder, gone)
        if launch is None:
            processes.kill(processes.descendants(os.getpid()))
            return
        operator = ClusterOperator(launch, folder, writer, zygote)
        await _run(operator, reader, gone)
    finally:
        folder.remove()
    with contextlib.suppress(OSError):
        operator.report()
        writer.close()
        await writer.wait_closed()


async def _warm_up(
    line: bytes, reader: asyncio.StreamReader, folder: RuntimeFolder, gone: asyncio.Task[None]
) -> tuple[ZygoteProcess | None, Launch | None]:
    """Import ahead what the kernel names, until it says what for; None if it never does."""
    zygote = None
    while line:
        message = json.loads(line)
        if message["do"] == "launch":
            return zygote, message
        zygote = zygote or ZygoteProcess(folder, "fork", {})
        zygote.search(message["path"])
        zygote.preload(message["modules"], optional=True)
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.wait({reading, gone}, timeout=_IDLE, return_when="FIRST_COMPLETED")
        line = reading.result() if reading.done() else b""
        reading.cancel()
    return zygote, None


async def _run(
    operator: ClusterOperator, reader: asyncio.StreamReader, gone: asyncio.Task[None]
) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, processes.reap)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, operator.done.set)
    gone.add_done_callback(lambda _: operator.done.set())
    obeying = loop.create_task(operator.obey(reader))
    operator.begin()
    await operator.done.wait()
    await operator.stop()
    if operator.reconciler.state == "failed":
        # The kernel reads the logs first, and then closes its end.
        await asyncio.wait([obeying, gone], timeout=_LOG_READING, return_when="FIRST_COMPLETED")
    obeying.cancel()
    gone.cancel()


def main() -> None:
    """Run as ``python -m flyte_jupyter.backends.local.supervisor FD KERNEL FOLDER``."""
    fd, kernel, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.set_title("flyte:super")
    asyncio.run(supervise(socket.socket(fileno=fd), kernel, RuntimeFolder(path)))


if __name__ == "__main__":
    main()
