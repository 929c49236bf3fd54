"""A process of a local cluster, from its first instruction to its engine's code.

Its channel to the supervisor is three things at once: the way to say that it is ready, the way to
learn what others said, and its lease. When the supervisor is gone the channel ends, and so does the
process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import site
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from flyte_jupyter.backends.backend import START_LINE
from flyte_jupyter.backends.local import processes
from flyte_jupyter.backends.local.channel import Channel


class Order(TypedDict):
    """What the supervisor wants started."""

    id: str
    role: str
    index: int
    generation: int
    target: str
    args: dict[str, Any]
    folder: str
    log: str
    cwd: str
    path: list[str]
    packages: str
    """A folder of packages beyond those on `path`; empty for none."""


class LocalMember:
    """The engine's view of the process it runs in; `engines.engine.Member` says what it offers.

    Parameters
    ----------
    order
        What the supervisor asked for.
    channel
        The process's own channel to the supervisor.
    """

    def __init__(self, order: Order, channel: Channel) -> None:
        self.role = order["role"]
        self.index = order["index"]
        self.generation = order["generation"]
        self.folder = Path(order["folder"])
        self.args: Mapping[str, Any] = order["args"]
        self._channel = channel
        self._facts: dict[str, list[dict[str, Any]]] = {}
        self._changed = threading.Condition()
        self.on_orphaned: Callable[[], None] = lambda: os._exit(1)

    def listen(self) -> None:
        """Begin to follow the supervisor, on a thread of its own."""
        threading.Thread(target=self._follow, name="lease", daemon=True).start()

    def ready(self, **facts: Any) -> None:
        """Say that this member can be used, and what others need to know of it."""
        with contextlib.suppress(OSError):  # the lease thread deals with a supervisor gone
            self._channel.send({"ready": facts})

    def wait_for(self, role: str) -> dict[str, Any]:
        """Block until a member of `role` is ready, and return what it said of itself."""
        with self._changed:
            self._changed.wait_for(lambda: self._facts.get(role))
            return self._facts[role][0]

    def facts(self, role: str) -> list[dict[str, Any]]:
        """Return what the members of `role` that are ready, as far as is known, said."""
        with self._changed:
            return list(self._facts.get(role, ()))

    def _follow(self) -> None:
        with contextlib.suppress(OSError):
            for message in self._channel:
                with self._changed:
                    self._facts = message["facts"]
                    self._changed.notify_all()
        self.on_orphaned()


def resolve(target: str) -> Callable[..., Any]:
    """Import what ``"module:function"`` names."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def run(order: Order, fd: int, parent: int) -> int:
    """Turn this process into a member, and return its exit code when it has done.

    Parameters
    ----------
    order
        What to become.
    fd
        Descriptor of its channel to the supervisor.
    parent
        Pid of the process that must not die before it.
    """
    os.setsid()
    processes.die_with_parent(parent)
    processes.set_title(f"flyte:{order['id']}")
    _redirect(order["log"])
    if order["generation"] > 1:
        print(START_LINE.format(order["id"], order["generation"]), flush=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.chdir(order["cwd"])
    sys.path[:] = order["path"] or sys.path
    if order["packages"]:
        _add_packages(order["packages"])
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()  # what was seeded before the fork is every member's
    member = LocalMember(order, Channel(socket.socket(fileno=fd)))
    member.listen()
    try:
        resolve(order["target"])(member)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0
    except BaseException:  # noqa: BLE001 - the last frame of a process: its log must say why
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _add_packages(folder: str) -> None:
    """Have packages found after all others, here and in what this process starts."""
    site.addsitedir(folder)
    for variable, path in (("PYTHONPATH", folder), ("PATH", str(Path(folder, "bin")))):
        before = os.environ.get(variable)
        os.environ[variable] = os.pathsep.join([before, path] if before else [path])


def _redirect(log: str) -> None:
    """Send what the process prints to its log, and give it nothing to read."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    os.close(empty)


def main() -> None:
    """Run as ``python -m``, for platforms where forking is not safe."""
    import json

    order, fd, parent = json.load(sys.stdin), int(sys.argv[1]), int(sys.argv[2])
    code = run(order, fd, parent)
    os._exit(code)


if __name__ == "__main__":
    main()
