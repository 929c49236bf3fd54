"""The process that imports an engine once, and from which its members are forked.

Importing Dask or a Jupyter kernel costs half a second to a second of a core, in each process that
does it; forking from one that has done it costs milliseconds, and the pages are shared. The zygote
has no thread and opens nothing, so what it forks starts from a clean state. It reaps its children
and tells the supervisor how they ended; it decides nothing.

Where forking is not safe (macOS) members are started each on its own instead; nobody else notices.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from flyte_jupyter.backends.local import member, processes
from flyte_jupyter.backends.local.channel import Channel


class Zygote:
    """Obeys the supervisor, one order after the other.

    Parameters
    ----------
    channel
        The channel to the supervisor.
    method
        ``fork`` or ``spawn``.
    """

    def __init__(self, channel: Channel, method: str) -> None:
        self.channel = channel
        self.method = method
        self.children: dict[int, str] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def serve(self) -> None:
        """Obey until the supervisor is gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel.sock, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake_read:
                        os.read(self._wake_read, 4096)
                    elif not self._obey_all():
                        return
                self._reap()

    def _obey_all(self) -> bool:
        messages = self.channel.receive()
        for message in messages or ():
            try:
                getattr(self, "do_" + message.pop("do"))(**message)
            except Exception as error:  # noqa: BLE001 - the supervisor decides
                traceback.print_exc()
                self.channel.send({"error": f"{type(error).__name__}: {error}"})
            self._reap()
        return messages is not None

    def do_search(self, path: list[str]) -> None:
        """Look for modules where the notebook does: an engine need not be installed."""
        sys.path[:] = path or sys.path

    def do_import(self, modules: list[str], optional: bool = False) -> None:
        """Import modules for all members that are started later."""
        if self.method == "fork":
            for name in modules:
                try:
                    importlib.import_module(name)
                except ImportError as error:
                    if not optional:
                        raise
                    print(f"{name} is not preloaded: {error}", file=sys.stderr, flush=True)
            gc.collect()
            gc.freeze()  # else the members' collectors would touch, and so copy, every page

    def do_prepare(self, target: str, folder: str) -> None:
        """Run the engine's preparation, whose result every member gets among its arguments."""
        self.channel.send({"prepared": member.resolve(target)(Path(folder))})

    def do_start(self, order: member.Order) -> None:
        """Start one member; its channel came with the message."""
        fd = self.channel.fds.pop(0)
        try:
            pid = self._fork(order, fd) if self.method == "fork" else self._spawn(order, fd)
        finally:
            os.close(fd)
        self.children[pid] = order["id"]
        self.channel.send({"started": order["id"], "pid": pid})

    def do_signal(self, id: str, number: int) -> None:  # noqa: A002 - the protocol's word
        """Send a signal to a member's process group, if it still lives."""
        for pid, child in self.children.items():
            if child == id:
                # Not yet reaped, so the pid is still this child's and nobody else's.
                try:
                    os.killpg(pid, number)
                except ProcessLookupError:
                    os.kill(pid, number)

    def _fork(self, order: member.Order, fd: int) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            self.channel.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            code = member.run(order, fd, parent)
        finally:
            os._exit(code)

    def _spawn(self, order: member.Order, fd: int) -> int:
        command = [sys.executable, "-P", "-m", member.__name__, str(fd), str(os.getpid())]
        # An order holds keys and tokens, and anybody may read command lines.
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(order).encode())
            file.seek(0)
            # Never waited for through the Popen object: the loop reaps all children alike.
            child = subprocess.Popen(command, stdin=file, pass_fds=[fd])
        child.returncode = 0
        return child.pid

    def _reap(self) -> None:
        while self.children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self.children.pop(pid, None)
            if child is not None:
                code = os.waitstatus_to_exitcode(status)
                self.channel.send({"exited": child, "pid": pid, "code": code})


def main() -> None:
    """Run as ``python -m flyte_jupyter.backends.local.zygote FD METHOD PARENT``."""
    fd, method, parent = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    processes.die_with_parent(parent)
    processes.set_title("flyte:zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Zygote(Channel(socket.socket(fileno=fd)), method).serve()
    except OSError:
        os._exit(1)  # the supervisor is gone; members see the same end of file


if __name__ == "__main__":
    main()
