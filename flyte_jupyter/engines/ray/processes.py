"""What runs in the processes of a Ray cluster: its head, and the nodes of its groups."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from flyte_jupyter.engines.engine import Member
from flyte_jupyter.engines.ray.groups import HEAD
from flyte_jupyter.engines.ray.private import (
    HOST,
    TEMPORARY,
    LocalNode,
    busy,
    drain,
    start_node,
    use_token,
)

_LEAST_STORE = 80 * 2**20
"""Bytes; Ray refuses an object store below 75 MiB."""
_STORES = 0.3
"""Part of the memory for objects, as Ray's own default has it; it is taken when it is used."""
_LOOK = 0.5
_LEAVING = 30.0
"""Seconds that the tasks of a node have to end when it is taken away, as a pod's have."""


def prepare(folder: Path) -> dict[str, Any]:
    """Make what all processes of the cluster share: tokens for Ray, and for its web pages."""
    (folder / TEMPORARY).mkdir(mode=0o700, exist_ok=True)
    return {"token": secrets.token_hex(32), "page": secrets.token_urlsafe(16)}


def run_head(member: Member) -> None:
    """Be the head: the control store, and a node that by default has no CPUs."""
    node = _start(member, "")
    from flyte_jupyter.engines.ray.pages import serve_dashboard

    facts = {"address": node.gcs_address, "session": node.get_session_dir_path()}
    port = serve_dashboard(node, member.args["page"], member.args["token"])
    dashboard = f"http://{HOST}:{port}/{member.args['page']}/"
    member.ready(**facts, **_facts(member, node), dashboard=dashboard)
    _stay(node)


def run_worker(member: Member) -> None:
    """Be a node of a worker group."""
    node = _start(member, member.wait_for(HEAD)["address"])
    member.ready(**_facts(member, node))
    _stay(node)


def _facts(member: Member, node: LocalNode) -> dict[str, Any]:
    return {
        "name": f"{member.role}-{member.index}",
        "node": node.node_id,
        "group": member.args["group"],
        "cpus": member.args["cpus"],
    }


def retire(member: Member) -> None:
    """Have nodes take no more tasks, and wait a while for those that they have.

    Tasks that last longer Ray runs again elsewhere, as it makes objects anew that only these nodes
    had. Actors that live there are not waited for to the end, for they have none.
    """
    use_token(member.args["token"])
    head = member.wait_for(HEAD)["address"]
    names = set(member.args["members"])
    groups = {name.rpartition("-")[0] for name in names}
    facts = [fact for group in groups for fact in member.facts(group)]
    nodes = {fact["node"] for fact in facts if fact["name"] in names}
    for node in nodes:
        drain(head, node, _LEAVING)
    end = time.monotonic() + _LEAVING
    time.sleep(_LOOK)  # what nodes report of themselves comes a little late
    while time.monotonic() < end and busy(head, nodes):
        time.sleep(_LOOK / 2)


def _start(member: Member, head: str) -> LocalNode:
    # Nothing of value is in these processes when the cluster ends, so end at once.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    use_token(member.args["token"])
    # Ray labels the node with it, as it does on Kubernetes: `ray.io/node-group`.
    os.environ["RAY_NODE_TYPE_NAME"] = member.args["group"]
    name = f"{member.role}-{member.index}"
    return start_node(member.folder, name, _options(member), head)


def _options(member: Member) -> dict[str, Any]:
    """Return what `RayParams` has to know of the node's resources."""
    args = member.args
    options: dict[str, Any] = {
        "num_cpus": args["cpus"],
        "num_gpus": args["gpus"],
        "object_store_memory": int(args["store"] or _store(args["nodes"])),
        "resources": dict(args["custom"]),
        "labels": dict(args["labels"]) or None,
    }
    if args["memory"]:
        options["memory"] = int(args["memory"])
    else:
        free = psutil.virtual_memory().available * (1 - _STORES)
        options["memory"] = max(_LEAST_STORE, int(free / args["nodes"]))
    return options


def _store(nodes: int) -> int:
    room = psutil.virtual_memory().available * _STORES
    if Path("/dev/shm").is_dir():  # noqa: S108 - where Ray keeps objects, in files without a name
        room = min(room, shutil.disk_usage("/dev/shm").free * 0.9)  # noqa: S108
    return max(_LEAST_STORE, int(room / nodes))


def _stay(node: LocalNode) -> None:
    """Live for as long as Ray's own processes do, and end with the first that ends."""
    while True:
        if ended := node.ended():
            print(f"{', '.join(ended)} of this node ended", file=sys.stderr, flush=True)
            os._exit(1)
        time.sleep(_LOOK)
