"""The operator of one cluster: it does what the reconciler concludes, through the zygote.

As a Kubernetes operator it treats the driver as the job that the cluster is for, replaces members
that die, and takes everything down in the end. It lives in the supervisor's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, TypedDict

from flyte_jupyter.backends.backend import DRIVER
from flyte_jupyter.backends.local import processes
from flyte_jupyter.backends.local.launching import DRIVER_PRELOAD
from flyte_jupyter.backends.local.member import Order
from flyte_jupyter.backends.local.reconciler import Reconciler, Record
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder
from flyte_jupyter.backends.local.zygote_process import ZygoteProcess
from flyte_jupyter.driver.output.descriptors import Remains
from flyte_jupyter.engines.engine import ClusterSpec, Role

_GRACE = 0.8
"""Seconds that members have between being asked to end and being killed."""

_RETIREMENT = 300.0
"""Seconds that members have to hand over what they hold, before they are ended all the same.

The engine's `retire` ends much sooner where it can: this is for one that hangs.
"""

_LEAVING = 3.0
"""Seconds that members have to leave by themselves after they have handed over."""

DRIVER_TARGET = "flyte_jupyter.driver.kernel:main"


class Launch(TypedDict):
    """The first message of the kernel: everything there is to know of the cluster."""

    spec: dict[str, Any]
    driver: dict[str, Any]
    cwd: str
    path: list[str]
    packages: str
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
        engine = {"connect": self.spec.connect, "run": self.spec.run}
        args = {**self.spec.driver_args, **launch["driver"], **engine}
        driver = Role(DRIVER, DRIVER_TARGET, args=args)
        self.reconciler = Reconciler(self.spec, driver)
        self.prepared: dict[str, Any] | None = None if self.spec.prepare else {}
        self.channels: dict[str, asyncio.StreamWriter] = {}
        self.done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[str] = set()
        self._retirements = itertools.count(1)
        self._exit = asyncio.Event()
        self._driver_preloaded = False
        self._wake: asyncio.TimerHandle | None = None
        self._remains: Remains | None = None
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
        self._retiring.discard(member)
        self.reconciler.exited(member, processes.describe_exit(code))
        if member == DRIVER:
            self._end_orphans()
            self._save_remains()
        self._exit.set()
        self._exit = asyncio.Event()

    def _end_orphans(self) -> None:
        """Kill what the driver left behind: adopted orphans are children of this process."""
        for orphan in processes.sparing_keepers(processes.children(os.getpid())):
            if orphan.pid != self.zygote.pid:
                processes.kill([*processes.descendants(orphan.pid), orphan])

    def _hold_remains(self) -> Remains:
        generation = self.reconciler.records[DRIVER].generation
        self._remains = self._remains or Remains(self.folder.path, generation)
        return self._remains

    def _save_remains(self) -> None:
        """Have the driver's log say all that it said, before anybody is told that it has ended."""
        self._hold_remains().save(self.folder.path / "logs" / f"{DRIVER}.log")
        self._remains = None

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
            "packages": self.launch["packages"],
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
                if member == DRIVER:
                    self._hold_remains()
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
        if self._wake:
            self._wake.cancel()
        if (pause := self.reconciler.pause) is not None and not self.done.is_set():
            self._wake = asyncio.get_running_loop().call_later(pause, self.reconcile)
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
        processes.kill(processes.sparing_keepers(processes.descendants(record.pid)))
        self.zygote.signal(DRIVER, signal.SIGKILL)

    def _scale(self, role: str, replicas: int) -> None:
        if role not in self.reconciler.roles:
            return
        if surplus := self.reconciler.scale(role, replicas):
            self._spawn(self._part_from(surplus))

    async def _part_from(self, members: list[Record]) -> None:
        """Let members hand over what they hold and leave, then end those that are still there."""

        def gone() -> bool:
            # A record is one process over its life; its name may be another's by now.
            return not any(self.reconciler.records.get(r.id) is r for r in members)

        with contextlib.suppress(OSError):  # the zygote is gone, and everything with it
            if self.spec.retire:
                once = self._retire(members)
                await self._until(lambda: once not in self._retiring or gone(), _RETIREMENT)
                self.zygote.signal(once, signal.SIGKILL)
                await self._until(gone, _LEAVING)
            for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 0.0)):
                for record in members:
                    if self.reconciler.records.get(record.id) is record:
                        self.zygote.signal(record.id, number)
                await self._until(gone, patience)

    def _retire(self, members: list[Record]) -> str:
        """Start the process by which members hand over what they hold; returns its id."""
        args = {"members": [record.id for record in members]}
        once = Record(Role(f"retire-{next(self._retirements)}", self.spec.retire, args=args), 0)
        self._retiring.add(once.id)
        self._start(once)
        return once.id

    async def _until(self, condition: Callable[[], bool], patience: float) -> None:
        """Wait until processes have ended so that a condition holds, or patience is at its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not condition():
                    await self._exit.wait()

    # -- the end ----------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take everything down: ask, then kill, until no descendant is left."""
        if self.reconciler.state != "failed":
            self.reconciler.state = "stopping"
        self.report()
        for member in [*self.reconciler.records, *self._retiring]:
            with contextlib.suppress(OSError):
                self.zygote.signal(member, signal.SIGTERM)
        end = asyncio.get_running_loop().time() + _GRACE
        while asyncio.get_running_loop().time() < end:
            if len(processes.descendants(os.getpid())) <= 1:  # the zygote
                break
            await asyncio.sleep(0.02)
        while left := processes.descendants(os.getpid()):
            processes.kill(processes.sparing_keepers(left))
            processes.reap()
            await asyncio.sleep(0.005)
        if self.reconciler.state != "failed":
            self.reconciler.state = "stopped"

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
