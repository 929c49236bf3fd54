"""One rank of a task: a forked process in which the cell runs as it would in the driver."""

from __future__ import annotations

import asyncio
import atexit
import builtins
import contextlib
import faulthandler
import gc
import getpass
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from flyte_jupyter.driver import local_imports, refs, replies, shell
from flyte_jupyter.driver.flyte_sdk import data
from flyte_jupyter.driver.returning import give_back, pack_possible, salvage
from flyte_jupyter.driver.shell import DriverShell
from flyte_jupyter.driver.surroundings import Surroundings
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.by_value import sharing_globals
from flyte_jupyter.driver.values.placing import placing_definitions
from flyte_jupyter.driver.wire import TaskReply, TaskRequest
from flyte_jupyter.driver.work import Work, perform_on_main
from flyte_jupyter.engines.pytorch.agent import LEFT
from flyte_jupyter.engines.pytorch.frames import ERR, OUT, FrameSocket
from flyte_jupyter.engines.pytorch.models import unwrap_distributed_models
from flyte_jupyter.engines.pytorch.rank_shell import redirect
from flyte_jupyter.errors import UsageError


@dataclass(frozen=True)
class Task:
    """What ranks need to know, beside what torch's agent tells them.

    Parameters
    ----------
    request
        The notebook's; its cells are all that the driver knows.
    declaration
        The environment's name and plugin config.
    header, frames
        The inputs.
    driver, token
        Where the driver listens, and what it wants to hear.
    folder
        The cluster's folder.
    roots
        Folders whose modules travel by value.
    """

    request: TaskRequest
    declaration: dict[str, Any]
    header: Any
    frames: list[bytes]
    driver: str
    token: str
    folder: Path
    roots: list[str]


class _DriversRefs(refs.RefStore):
    """The values that the driver keeps, as far as this rank asks for them."""

    def __init__(self, link: FrameSocket) -> None:
        super().__init__("")
        self._link = link

    def __contains__(self, name: str) -> bool:
        if name not in self._values:
            self._link.say("ref", name=name)
            answer = self._link.hear()
            if answer is None or answer["header"] is None:
                return False
            # All that were kept together: what they have in common they have here, too.
            values = transfer.unpack(answer["header"], answer["frames"])
            self._values |= {ref: values[each] for ref, each in answer["names"].items()}
        return True


def be_rank(task: Task, node: int, ipython: DriverShell, environ: dict[str, str]) -> NoReturn:
    """Run the cell, tell the driver what came of it, and leave when the driver says so.

    Parameters
    ----------
    task
        What to run.
    node
        Number of the node.
    ipython
        The shell to run it in.
    environ
        The variables by which torch's agent tells a rank which it is.
    """
    # One that comes before there is anything to interrupt waits until there is.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    local_imports.install(task.roots)
    Surroundings(task.roots).follow(task.request["around"])
    os.environ.update(environ)  # after what the notebook has set: which rank it is, torch says
    os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
    atexit._clear()  # what is registered from here on belongs to the cell
    link = FrameSocket.connect(task.driver)
    ends = redirect(link, (OUT, ERR))
    faulthandler.enable(2)
    number, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    link.say("hello", ends, token=task.token, rank=number, world=world, node=node, pid=os.getpid())
    for end in ends:
        os.close(end)
    if number == 0:
        ipython.display_pub.session.link = link
    rank = _Rank(task, ipython, link, number, world)  # it holds what is returned
    reply, frames = rank.perform()
    link.say("end", reply=reply, frames=[bytes(frame) for frame in frames])
    gc.collect()  # what the cell has left open is written
    link.hear()  # until everybody is done: who leaves early cuts connections of the others
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    os._exit(LEFT)


class _Rank:
    """The task in this process."""

    def __init__(
        self, task: Task, ipython: DriverShell, link: FrameSocket, number: int, world: int
    ) -> None:
        self._task, self._shell, self._link = task, ipython, link
        self._number, self._world = number, world
        self._parcels: list[transfer.Parcel] = []

    def perform(self) -> tuple[Any, list[Any]]:
        """Run it; returns a reply and its frames."""
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            answer = self._perform()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt as error:  # between the parts of it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return self._fail(error, "cell")
        return answer

    def _perform(self) -> tuple[Any, list[Any]]:
        main = shell.new_main()
        try:
            inputs = self._prepare(main)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the notebook raises it
            return self._fail(error, "inputs")
        request, folder = self._task.request, self._task.folder / "data"
        # The plugin's own template would start ranks; its `pre` has run in the agent.
        declaration = {**self._task.declaration, "config": None}
        given = {} if request["call"] else inputs
        with shell.fresh_namespace(self._shell, given, main) as namespace:
            work = Work(request, declaration, inputs, folder)
            try:
                failure, lines = asyncio.run(perform_on_main(self._shell, work, namespace))
            except BaseException as raised:  # noqa: BLE001 - the same
                failure, lines = raised, None
            answer: tuple[Any, list[Any]] = {"status": "ok"}, []
            if failure is not None:
                answer = self._fail(failure, "cell", lines)
            if self._number or (failure is not None and request["call"]):
                return answer
            try:
                return self._collect(answer, namespace, inputs)
            except BaseException as raised:  # noqa: BLE001 - a user's object may raise anything
                return self._fail(raised, "outputs") if failure is None else answer

    def _prepare(self, main: types.ModuleType) -> dict[str, object]:
        task = self._task
        # Else workers of a data loader make folders for their sockets elsewhere, and a SIGKILL
        # leaves them there.
        process: Any = multiprocessing.current_process()
        process._config["tempdir"] = str(task.folder)
        builtins.input = getpass.getpass = _cannot_ask
        _be_different_from_others()
        _use_device()
        _DriversRefs(self._link).publish()
        data.initialize_on_demand()
        call = task.request["call"]
        sharing = contextlib.nullcontext() if call else sharing_globals(vars(main))
        with placing_definitions(vars(main)), sharing:
            inputs = transfer.unpack(task.header, task.frames)
        shell.learn_cells(self._shell, task.request["cells"])
        return inputs

    def _collect(
        self, answer: tuple[Any, list[Any]], namespace: dict[str, Any], inputs: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        """Add to an answer what rank 0 returns, and what it leaves with the driver."""
        request, folder = self._task.request, self._task.folder
        well = answer[0]["status"] == "ok"
        unwrap_distributed_models()
        given = (
            give_back(request, namespace, folder)
            if well
            else salvage(request, namespace, inputs, folder)
        )
        kept = pack_possible(given.kept, folder)
        if well and (problem := given.problem or kept.problem):
            answer = self._fail(problem, "outputs")
        self._parcels += given.parcel, kept.parcel  # they live until the driver lets this one go
        reply, frames = answer
        reply |= {"outputs": given.parcel.header, "before": len(frames)}
        reply |= {"kept": kept.parcel.header, "kept_frames": kept.parcel.frames}
        return reply, [*frames, *given.parcel.frames]

    def _fail(
        self, error: BaseException, where: replies.Where, lines: list[str] | None = None
    ) -> tuple[TaskReply, list[Any]]:
        which = f"raised on rank {self._number} of {self._world}"
        with contextlib.suppress(Exception):
            error.add_note(which)
        if lines:
            lines.append(f"\x1b[31m{which}\x1b[0m")
        return replies.failure(self._shell, error, where, lines)


def _cannot_ask(*prompt: object, **more: object) -> NoReturn:
    del prompt, more
    raise UsageError(
        "a cell that runs in several ranks cannot ask",
        fix="Ask in a plain cell; the answer travels as an input.",
    )


def _be_different_from_others() -> None:
    """Draw random numbers of its own: what was seeded before the fork is every rank's."""
    torch.default_generator.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    # It has read the variable when it was loaded, long before.
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        with contextlib.suppress(ValueError, RuntimeError):
            torch.set_num_threads(int(threads))


def _use_device() -> None:
    """Take the GPU of this rank's number, of those that its node has, where there are any."""
    count = torch.cuda.device_count()
    if not count:
        return
    world, nodes = int(os.environ["WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
    if world > count and int(os.environ["RANK"]) == 0:
        gpus = "1 GPU" if count == 1 else f"{count} GPUs"
        print(f"{world} ranks share {gpus} of this machine.", file=sys.stderr)
    own = visible_gpus(count)
    share = share_of_node(own, int(os.environ["GROUP_RANK"]), nodes)
    if nodes > 1 and len(share) >= int(os.environ["LOCAL_WORLD_SIZE"]):
        # Before CUDA is begun with: from then on the node has no others, as in a pod of its own.
        own = share
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % len(own))


def visible_gpus(count: int) -> list[str]:
    """Return what `CUDA_VISIBLE_DEVICES` calls the GPUs that can be seen, of which there are some.

    Parameters
    ----------
    count
        How many torch has counted: it stops at the first that the variable names in vain.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[:count] or [str(number) for number in range(count)]


def share_of_node(gpus: Sequence[str], node: int, nodes: int) -> list[str]:
    """Return the GPUs of one node, of all that its machine has.

    No two nodes have one in common, unless there are more nodes than GPUs.

    Parameters
    ----------
    gpus
        Those of the machine; at least one.
    node, nodes
        Which node it is, from 0, and of how many.
    """
    if len(gpus) < nodes:
        return [gpus[node % len(gpus)]]
    each, more = divmod(len(gpus), nodes)
    first = node * each + min(node, more)
    return list(gpus[first : first + each + (node < more)])


def use_loopback() -> None:
    """Have the libraries that ranks talk through use the loopback interface alone."""
    name = "lo" if sys.platform == "linux" else "lo0"
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"):
        os.environ.setdefault(variable, name)
