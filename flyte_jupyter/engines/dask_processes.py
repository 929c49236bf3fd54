"""What runs inside a Dask cluster's processes. The one module that imports `distributed`."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client, Scheduler, Worker
from distributed.security import Security
from tornado.ioloop import PeriodicCallback
from tornado.web import RequestHandler

from flyte_jupyter.engines.dask_tls import make_certificates
from flyte_jupyter.engines.engine import Member

_HOST = "127.0.0.1"
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
    prefix = f"/{member.args['token']}"
    # Bokeh costs a second to import: the dashboard is added when somebody first opens it.
    scheduler = Scheduler(
        host=_HOST,
        port=0,
        protocol="tls",
        security=Security(),
        dashboard=False,
        dashboard_address=f"{_HOST}:0",
        http_prefix=prefix,
    )
    async with scheduler:
        _add_lazy_dashboard(scheduler, prefix)
        member.ready(
            address=scheduler.address,
            dashboard=f"http://{_HOST}:{scheduler.http_server.port}{prefix}/status",
        )
        _end_on_sigterm()
        await scheduler.finished()


def _add_lazy_dashboard(scheduler: Any, prefix: str) -> None:
    """Serve the dashboard under a path that cannot be guessed, from the first visit on.

    The page has no password, and every user of the machine can connect to a port on loopback; who
    does not know the token gets nothing.
    """

    class FirstVisit(RequestHandler):
        async def get(self) -> None:
            page = await asyncio.to_thread(_import_dashboard)
            if not hasattr(scheduler, "_dashboard_added"):
                scheduler._dashboard_added = True
                page.connect(
                    scheduler.http_application, scheduler.http_server, scheduler, prefix=prefix
                )
                rules = scheduler.http_application.default_router.rules
                rules[:] = [r for r in rules if r is not first]
            self.redirect(self.request.uri or prefix)

    application = scheduler.http_application
    application.add_handlers(r".*", [(rf"{prefix}/?(?:status)?", FirstVisit)])
    first = application.default_router.rules[0]


def _import_dashboard() -> Any:
    import distributed.dashboard.scheduler as page

    return page


# -- worker -------------------------------------------------------------------------------------


def run_worker(member: Member) -> None:
    """Be a worker; the supervisor plays the nanny."""
    _use_certificates(member.args["tls"])
    address = member.wait_for("scheduler")["address"]
    dask.config.set({"scheduler-address": address})
    os.environ["DASK_SCHEDULER_ADDRESS"] = address
    asyncio.run(_work(member, address))


async def _work(member: Member, address: str) -> None:
    limit = member.args["memory"] or psutil.virtual_memory().total // member.args["share"]
    worker = Worker(
        address,
        host=_HOST,
        protocol="tls",
        security=Security(),
        name=f"{member.role}-{member.index}",
        nthreads=member.args["threads"],
        memory_limit=limit,
        local_directory=str(member.folder / f"{member.role}-{member.index}"),
        dashboard=False,
        dashboard_address=f"{_HOST}:0",
        http_prefix=f"/{member.args['token']}",
        validate=False,
    )
    async with worker:
        guard = PeriodicCallback(lambda: _check_memory(limit), 200)
        guard.start()
        member.ready(address=worker.address)
        _end_on_sigterm()
        await worker.finished()


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
    address = member.wait_for("scheduler")["address"]
    dask.config.set({"scheduler-address": address})
    # For what reads the environment: Dask in a subprocess of the cell, and Flyte's own plugin.
    os.environ["DASK_SCHEDULER_ADDRESS"] = address
    for key in ("ca", "cert", "key"):
        suffix = "CA_FILE" if key == "ca" else f"CLIENT__{key.upper()}"
        os.environ[f"DASK_DISTRIBUTED__COMM__TLS__{suffix}"] = member.args["tls"][key]


def retire(member: Member) -> None:
    """Let workers hand over what they hold, and leave."""
    _use_certificates(member.args["tls"])
    address = member.wait_for("scheduler")["address"]
    with Client(address, timeout=5) as client:
        client.retire_workers(names=list(member.args["members"]), close_workers=True)
