"""A node: a process that waits for tasks, and forks an agent for each.

It has imported torch and does nothing with it; what a task leaves goes with its agent. So every
task starts from the same clean state, and none pays for an import.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
from typing import Any

import torch

from flyte_jupyter.driver.flyte_sdk import context as flyte_context
from flyte_jupyter.engines.engine import Member
from flyte_jupyter.engines.pytorch import agent
from flyte_jupyter.engines.pytorch.frames import FrameSocket
from flyte_jupyter.engines.pytorch.lifeline import become, kill_tree
from flyte_jupyter.engines.pytorch.rank import Task, be_rank, use_loopback
from flyte_jupyter.engines.pytorch.rank_shell import make_shell


def run_node(member: Member) -> None:
    """Be a node."""
    path = member.folder / f"node-{member.index}"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # that of the process before this one
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    shell = make_shell()
    assert not torch.cuda.is_initialized(), "CUDA does not survive a fork"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    member.ready(socket=str(path), index=member.index)
    node = _Node(member.index, listener, shell)
    _warm_up(shell)
    while True:
        connection, _ = listener.accept()
        node.serve(FrameSocket(connection))


def _warm_up(shell: Any) -> None:
    """Do once what every rank would else do for the first time."""
    flyte_context.preload()
    shell.transform_cell("1")
    shell.display_formatter.format(1)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
    gc.freeze()


class _Node:
    def __init__(self, index: int, listener: socket.socket, shell: Any) -> None:
        self._index, self._listener, self._shell = index, listener, shell

    def serve(self, driver: FrameSocket) -> None:
        """Do one task, until it has ended or the driver hangs up."""
        try:
            said = driver.hear()
            if said is None:
                return
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                self._be_agent(said["orders"], driver, parent)
            self._watch(pid, driver)
        except OSError:
            pass  # the driver is gone
        finally:
            driver.close()

    def _watch(self, pid: int, driver: FrameSocket) -> None:
        """Wait for the agent's end, or bring it about when the driver is not there any more."""
        try:
            ended = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux
            while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if select.select([driver.sock], [], [], 0.05)[0]:
                    kill_tree(pid)
        else:
            ready: list[Any]
            ready, _, _ = select.select([ended, driver.sock.fileno()], [], [])
            os.close(ended)
            if ended not in ready:
                kill_tree(pid)
        _, status = os.waitpid(pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            with contextlib.suppress(OSError):
                driver.say("broken", error=f"its agent ended with code {code}")

    def _be_agent(self, orders: agent.Orders, driver: FrameSocket, parent: int) -> None:
        code = 1
        try:
            become(f"flyte:agent-{self._index}", parent)
            self._listener.close()
            _let_plugin_prepare(orders)

            def body(environ: dict[str, str]) -> Any:
                driver.sock.close()
                be_rank(orders.task, self._index, self._shell, environ)

            agent.be_agent(orders, driver, body)
            code = 0
        except Exception:  # noqa: BLE001 - the driver tells the user
            agent.report_crash(driver)
            code = 0
        finally:
            os._exit(code)


def _let_plugin_prepare(orders: agent.Orders) -> None:
    """Run the plugin's own `pre`, which sets variables for ranks."""
    task: Task = orders.task
    config = task.declaration["config"]
    use_loopback()
    if orders.nproc > 1:
        # As the plugin does, which would say so in five lines for every cell.
        os.environ.setdefault("OMP_NUM_THREADS", "1")

    async def nothing() -> None:
        pass

    template = flyte_context.build_task(task.declaration["name"], config, nothing)
    asyncio.run(template.pre())
    if seconds := os.environ.get("FLYTE_NCCL_COLLECTIVE_TIMEOUT_SEC"):
        _limit_collectives(int(seconds))


def _limit_collectives(seconds: int) -> None:
    """Do what the plugin's `launcher_entrypoint` does in each rank."""
    from datetime import timedelta

    from torch.distributed import constants
    from torch.distributed import distributed_c10d as c10d

    limit = timedelta(seconds=seconds)
    constants.default_pg_nccl_timeout = c10d.default_pg_nccl_timeout = limit
