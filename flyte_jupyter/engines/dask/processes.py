"""What runs in the processes of a Dask cluster; imported only there, as its neighbours are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client, Scheduler, Worker
from distributed.security import Security
from tornado.ioloop import PeriodicCallback

from flyte_jupyter.engines.dask.pages import add_dashboard, guard
from flyte_jupyter.engines.dask.pickling import pickle_local_modules_by_value
from flyte_jupyter.engines.dask.tls import make_certificates
from flyte_jupyter.engines.engine import Member

_HOST = "127.0.0.1"
_CONNECTING = 30.0
"""Seconds that a scheduler which is busy has to answer."""
_TERMINATE = 0.95
"""Share of its memory limit at which a worker ends itself, as Dask's own nanny would end it."""


def prepare(folder: Path) -> dict[str, Any]:
    """Make what all processes of the cluster share: certificates, and a token for web pages."""
    return {"tls": make_certificates(folder), "token": secrets.token_urlsafe(16)}


def _use_certificates(tls: dict[str, str]) -> None:
    role = {"key": tls["key"], "cert": tls["cert"]}
    dask.config.set(
        {
            "distributed.comm.require-encryption": True,
            "distributed.comm.tls.ca-file": tls["ca"],
            "distributed.comm.tls.scheduler": role,
            "distributed.comm.tls.worker": role,
            "distributed.comm.tls.client": role,
        }
    )


# -- scheduler ----------------------------------------------------------------------------------


def run_scheduler(member: Member) -> None:
    """Be the scheduler."""
    _use_certificates(member.args["tls"])
    asyncio.run(_schedule(member))


async def _schedule(member: Member) -> None:
    token = member.args["token"]
    _leave_out_slow_pages("scheduler")
    scheduler = Scheduler(
        host=_HOST,
        port=0,
        protocol="tls",
        security=Security(),
        dashboard=False,
        dashboard_address=f"{_HOST}:0",
        local_directory=str(member.folder),  # it has one too, and would leave it behind
    )
    async with scheduler:
        add_dashboard(scheduler)
        guard(scheduler.http_application, token)
        member.ready(
            address=scheduler.address,
            dashboard=f"http://{_HOST}:{scheduler.http_server.port}/{token}/status",
        )
        _end_on_sigterm()
        await scheduler.finished()


def _leave_out_slow_pages(role: str) -> None:
    """Serve neither the proxy nor Prometheus' page: importing them takes longer than the rest."""
    key = f"distributed.{role}.http.routes"
    slow = ("distributed.http.proxy", f"distributed.http.{role}.prometheus")
    dask.config.set({key: [route for route in dask.config.get(key) if route not in slow]})


# -- worker -------------------------------------------------------------------------------------


def run_worker(member: Member) -> None:
    """Be a worker; the supervisor plays the nanny."""
    _use_certificates(member.args["tls"])
    address = member.wait_for("scheduler")["address"]
    dask.config.set({"scheduler-address": address})
    os.environ["DASK_SCHEDULER_ADDRESS"] = address
    asyncio.run(_work(member, address))


async def _work(member: Member, address: str) -> None:
    _leave_out_slow_pages("worker")
    limit = member.args["memory"] or psutil.virtual_memory().total // member.args["share"]
    worker = Worker(
        address,
        host=_HOST,
        protocol="tls",
        security=Security(),
        name=f"{member.role}-{member.index}",
        nthreads=member.args["threads"],
        memory_limit=limit,
        local_directory=str(_spill_folder(member)),
        dashboard=False,
        dashboard_address=f"{_HOST}:0",
        validate=False,
    )
    async with worker:
        guard(worker.http_application, member.args["token"])
        check = PeriodicCallback(lambda: _check_memory(limit), 200)
        check.start()
        member.ready(address=worker.address)
        _end_on_sigterm()
        await worker.finished()


def _spill_folder(member: Member) -> Path:
    """Return where workers write what does not fit into their memory.

    That is the cluster's own folder, unless Dask is told to use another disk. There it is a folder
    for the owner alone, which goes with the cluster's: a link in that leads to it.

    Raises
    ------
    OSError
        It cannot be made, or somebody else has made it.
    """
    elsewhere = member.args["temporary"] or dask.config.get("temporary-directory", None)
    if not elsewhere:
        return member.folder
    folder = Path(elsewhere).absolute() / f"flyte-jupyter-{member.folder.name}"
    # First the link: whoever is killed in between, what has been made is found.
    with contextlib.suppress(FileExistsError):
        (member.folder / "elsewhere").symlink_to(folder)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} must belong to you alone")
    return folder


def _check_memory(limit: int) -> None:
    used = psutil.Process().memory_info().rss
    if used > limit * _TERMINATE:
        sizes = f"{used / 2**20:.0f} MiB of its {limit / 2**20:.0f} MiB"
        print(f"this worker used {sizes} and ended itself", file=sys.stderr, flush=True)
        os._exit(137)


def _end_on_sigterm() -> None:
    """Nothing of value is in these processes when the cluster ends, so end at once."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


# -- driver -------------------------------------------------------------------------------------


def connect(member: Member) -> None:
    """Make `Client()` in this process find the cluster."""
    _use_certificates(member.args["tls"])
    pickle_local_modules_by_value()
    address = member.wait_for("scheduler")["address"]
    dask.config.set({"scheduler-address": address})
    # For what reads the environment: Dask in a subprocess of the cell, and Flyte's own plugin.
    os.environ["DASK_SCHEDULER_ADDRESS"] = address
    for key in ("ca", "cert", "key"):
        suffix = "CA_FILE" if key == "ca" else f"CLIENT__{key.upper()}"
        os.environ[f"DASK_DISTRIBUTED__COMM__TLS__{suffix}"] = member.args["tls"][key]


def retire(member: Member) -> None:
    """Let workers hand over what they hold, for as long as that takes, and leave.

    It ends early if the scheduler is gone; what would hang for ever, the backend ends.
    """
    _use_certificates(member.args["tls"])
    address = member.wait_for("scheduler")["address"]
    with Client(address, timeout=_CONNECTING) as client:
        client.retire_workers(names=list(member.args["members"]), close_workers=True)
