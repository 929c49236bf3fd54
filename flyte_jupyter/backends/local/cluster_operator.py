"""The operator of one cluster: it does what the reconciler concludes, through the zygote.

As a Kubernetes operator it treats the driver as the job that the cluster is for, replaces members
that die, and takes everything down in the end. It lives in the supervisor's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import Any, TypedDict

from flyte_jupyter.backends.backend import DRIVER
from flyte_jupyter.backends.local import processes
from flyte_jupyter.backends.local.launching import DRIVER_PRELOAD
from flyte_jupyter.backends.local.member import Order
from flyte_jupyter.backends.local.reconciler import Reconciler, Record
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder
from flyte_jupyter.backends.local.zygote_process import ZygoteProcess
from flyte_jupyter.engines.engine import ClusterSpec, Role

_GRACE = 0.8
"""Seconds that members have between being asked to end and being killed."""

DRIVER_TARGET = "flyte_jupyter.driver.kernel:main"


class Launch(TypedDict):
    """The first message of the kernel: everything there is to know of the cluster."""

    spec: dict[str, Any]
    driver: dict[str, Any]
    cwd: str
    path: list[str]
    method: str
    preload: list[str]


class ClusterOperator:
    """Runs one cluster until it is told to stop or nobody is left to run it for.

    Parameters
    ----------
    launch
        What to run.
    folder
        The cluster's folder; made here and removed here.
    control
        The stream to the kernel.
    zygote
        One that was started ahead, if there is one.
    """

    def __init__(
        self,
        launch: Launch,
        folder: RuntimeFolder,
        control: asyncio.StreamWriter,
        zygote: ZygoteProcess | None = None,
    ) -> None:
        self.launch = launch
        self.folder = folder
        self.control = control
        self.spec = ClusterSpec.from_json(launch["spec"])
        args = {**launch["driver"], "connect": self.spec.connect}
        driver = Role(DRIVER, DRIVER_TARGET, args=args)
        self.reconciler = Reconciler(self.spec, driver)
        self.prepared: dict[str, Any] | None = None if self.spec.prepare else {}
        self.channels: dict[str, asyncio.StreamWriter] = {}
        self.done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._oneshots = 0
        self._driver_preloaded = False
        self.zygote = zygote or ZygoteProcess(folder, launch["method"], self.spec.env)
        self._spawn(self._follow_zygote())

    # -- the zygote -------------------------------------------------------------------------

    async def _follow_zygote(self) -> None:
        reader, _ = await asyncio.open_connection(sock=self.zygote.channel.sock.dup())
        while line := await reader.readline():
            message = json.loads(line)
            if "started" in message:
                self.reconciler.started(message["started"], message["pid"])
            elif "exited" in message:
                self._on_exit(message["exited"], message["code"])
            elif "prepared" in message:
                self.prepared = message["prepared"]
            elif "error" in message:
                self.reconciler.fail(message["error"])
            self.reconcile()
        if self.reconciler.state not in ("stopping", "stopped"):
            self.reconciler.fail("the process that all members are forked from has ended")
            self.reconcile()

    def _on_exit(self, member: str, code: int) -> None:
        self.channels.pop(member, None)
        self.reconciler.exited(member, processes.describe_exit(code))
        if member == DRIVER:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill what the driver left behind: adopted orphans are children of this process."""
        for orphan in processes.children(os.getpid()):
            if orphan.pid != self.zygote.pid:
                processes.kill([*processes.descendants(orphan.pid), orphan])

    # -- members ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Order everything there is to start; the zygote works through it in order."""
        self.zygote.search(self.launch["path"])
        self.zygote.preload(self.spec.preload)
        self.zygote.preload(self.launch["preload"], optional=True)
        if self.spec.prepare:
            self.zygote.prepare(self.spec.prepare, self.folder.path)
        else:
            self._start_members()

    def _start_members(self) -> None:
        """Start engine members first: the driver's imports then overlap with their start."""
        missing = list(self.reconciler.missing())
        for record in missing:
            if record.role.name != DRIVER:
                self._start(record)
        for record in missing:
            if record.role.name == DRIVER:
                self._preload_driver()
                self._start(record)

    def _preload_driver(self) -> None:
        if self._driver_preloaded:
            return
        self._driver_preloaded = True
        self.zygote.preload([*DRIVER_PRELOAD, *self.spec.driver_preload])

    def _start(self, record: Record) -> None:
        order: Order = {
            "id": record.id,
            "role": record.role.name,
            "index": record.index,
            "generation": record.generation,
            "target": record.role.target,
            "args": {**(self.prepared or {}), **record.role.args},
            "folder": str(self.folder.path),
            "log": str(self.folder.path / "logs" / f"{record.id}.log"),
            "cwd": self.launch["cwd"],
            "path": self.launch["path"],
        }
        self._send_order(order)

    def _send_order(self, order: Order) -> None:
        ours, theirs = socket.socketpair()
        self.zygote.start(order, theirs.fileno())
        theirs.close()
        self._spawn(self._follow_member(order["id"], ours))

    async def _follow_member(self, member: str, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        self.channels[member] = writer
        self._tell(writer)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                if self.channels.get(member) is not writer:
                    break  # it has ended meanwhile: this is no word of its replacement
                self.reconciler.ready(member, json.loads(line)["ready"])
                for channel in self.channels.values():
                    self._tell(channel)
                self.reconcile()
        writer.close()

    def _tell(self, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps({"facts": self.reconciler.facts}).encode() + b"\n")

    # -- decisions --------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Do what follows from the present state, and tell the kernel."""
        state = self.reconciler.state
        if state in ("starting", "ready") and self.prepared is not None:
            self._start_members()
        if state == "failed":
            self.done.set()
        self.report()

    def report(self) -> None:
        """Send the whole status to the kernel."""
        if not self.control.is_closing():
            self.control.write(json.dumps(self.reconciler.status()).encode() + b"\n")

    async def obey(self, reader: asyncio.StreamReader) -> None:
        """Do what the kernel says until it says stop, or is gone."""
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                message = json.loads(line)
                if message["do"] == "stop":
                    self.done.set()
                if message["do"] == "scale":
                    self._scale(message["role"], message["replicas"])
                elif message["do"] == "restart_driver":
                    self._end_driver()
                self.reconcile()
        self.done.set()

    def _end_driver(self) -> None:
        record = self.reconciler.records[DRIVER]
        record.attempts = 0  # it does not fail: it is wanted gone
        processes.kill(processes.descendants(record.pid))
        self.zygote.signal(DRIVER, signal.SIGKILL)

    def _scale(self, role: str, replicas: int) -> None:
        if role not in self.reconciler.roles:
            return
        surplus = self.reconciler.scale(role, replicas)
        if not surplus:
            return
        if self.spec.retire:
            self._oneshots += 1
            name = f"retire-{self._oneshots}"
            args = {"members": [r.id for r in surplus]}
            once = Record(Role(name, self.spec.retire, args=args), 0)
            self._start(once)
        self._spawn(self._part_from([r.id for r in surplus]))

    async def _part_from(self, members: list[str]) -> None:
        """Let members leave by themselves for a while, then end them."""
        for number, patience in ((0, 10.0), (signal.SIGTERM, _GRACE), (signal.SIGKILL, 0.0)):
            left = [m for m in members if m in self.reconciler.records]
            for member in left if number else ():
                self.zygote.signal(member, number)
            end = asyncio.get_running_loop().time() + patience
            while left and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(0.05)
                left = [m for m in left if m in self.reconciler.records]

    # -- the end ----------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take everything down: ask, then kill, until no descendant is left."""
        if self.reconciler.state != "failed":
            self.reconciler.state = "stopping"
        self.report()
        for member in list(self.reconciler.records):
            with contextlib.suppress(OSError):
                self.zygote.signal(member, signal.SIGTERM)
        end = asyncio.get_running_loop().time() + _GRACE
        while asyncio.get_running_loop().time() < end:
            if len(processes.descendants(os.getpid())) <= 1:  # the zygote
                break
            await asyncio.sleep(0.02)
        while left := processes.descendants(os.getpid()):
            processes.kill(left)
            processes.reap()
            await asyncio.sleep(0.005)
        if self.reconciler.state != "failed":
            self.reconciler.state = "stopped"

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
