"""How the driver asks nodes to do a task: where ranks connect, and what a node is told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from typing import Any

from flyte_jupyter.driver.job import Job
from flyte_jupyter.engines.pytorch.agent import Orders
from flyte_jupyter.engines.pytorch.engine import OWN_STORE
from flyte_jupyter.engines.pytorch.engine import nodes as least_and_most
from flyte_jupyter.engines.pytorch.frames import FrameSocket
from flyte_jupyter.engines.pytorch.links import NodeLink
from flyte_jupyter.engines.pytorch.meeting import Meeting
from flyte_jupyter.engines.pytorch.rank import Task
from flyte_jupyter.errors import ClusterError

_NODE_START = 30.0
"""Seconds that a node which is being replaced has to come back."""

_rounds = itertools.count(1)


class Desk:
    """What the driver keeps from task to task: where ranks connect, and the notebook's cells.

    Parameters
    ----------
    member
        The driver.
    """

    def __init__(self, member: Any) -> None:
        self.path = member.folder / f"ranks{member.generation}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.cells: dict[str, tuple[int, str]] = {}
        self.leaving: asyncio.Future[Any] | None = None
        self.warned = False


async def ask_nodes(job: Job, desk: Desk, token: str, restarts: int) -> list[NodeLink]:
    """Tell the nodes of an environment to do a task.

    Parameters
    ----------
    job
        The task.
    desk
        Where its ranks are to connect.
    token
        What they are to say there.
    restarts
        How many of `max_restarts` have been used.

    Raises
    ------
    ClusterError
        There are not enough nodes.
    """
    config, loop = job.config, asyncio.get_running_loop()
    least, most = least_and_most(config.nnodes)
    sockets = await _reach(job.member, least, most)
    number = next(_rounds)
    meeting = Meeting(job.member.folder / f"meet-{os.getpid()}-{number}")
    orders = Orders(
        run=f"{job.request['run']}-{number}",
        nproc=config.nproc_per_node,
        nodes=len(sockets),
        least=min(least, len(sockets)),
        rendezvous=str(meeting.store),
        max_restarts=max(0, config.max_restarts - restarts),
        monitor_interval=config.monitor_interval,
        rdzv_configs={k: v for k, v in (config.rdzv_configs or {}).items() if k not in OWN_STORE},
        task=_task(job, desk, token),
    )
    links = [NodeLink(index, link, meeting, loop) for index, link in sockets.items()]
    for link in links:
        link.link.say("job", orders=orders)
    return links


def _task(job: Job, desk: Desk, token: str) -> Task:
    return Task(
        request={**job.request, "cells": dict(desk.cells)},
        declaration=job.declaration,
        header=job.inputs.header,
        frames=[bytes(frame) for frame in job.inputs.frames],
        driver=str(desk.path),
        token=token,
        folder=job.member.folder,
        roots=job.local_roots,
    )


async def _reach(member: Any, least: int, most: int) -> dict[int, FrameSocket]:
    """Connect to the nodes: to all of them, or to those that there are if these are enough."""
    end = asyncio.get_running_loop().time() + _NODE_START
    while True:
        facts = member.facts("node")
        links: dict[int, FrameSocket] = {}
        for fact in facts:
            with contextlib.suppress(OSError):
                links[fact["index"]] = FrameSocket.connect(fact["socket"])
        if len(links) >= max(least, 1):
            return dict(itertools.islice(links.items(), most))
        for link in links.values():
            link.close()
        if asyncio.get_running_loop().time() > end:
            raise ClusterError(
                f"{least} nodes are needed, and {len(links)} are there",
                fix="See %flyte status, and %flyte logs ENV node-0.",
            )
        await asyncio.sleep(0.05)
