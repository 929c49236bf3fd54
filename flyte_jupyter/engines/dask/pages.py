"""Dask's web pages, for the one person who knows their path.

The pages have no password, and every user of the machine can connect to a port on loopback. So they
answer only below a path that is a token. Dask itself knows nothing of it, and so makes no link with
it: its pages name their parts relative to themselves, and work behind a proxy too.

The dashboard is added when somebody first opens it: Bokeh costs a second to import, which no
cluster that nobody looks at should pay.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.web import ErrorHandler, RequestHandler


def guard(application: Any, token: str) -> None:
    """Have a Dask process's web application answer only below ``/token``."""
    find = application.find_handler
    prefix = f"/{token}"

    def find_handler(request: Any, **kwargs: Any) -> Any:
        if not request.path.startswith(f"{prefix}/"):
            return application.get_handler_delegate(request, ErrorHandler, {"status_code": 404})
        request.path = request.path.removeprefix(prefix)
        request.uri = request.uri.removeprefix(prefix)
        return find(request, **kwargs)

    application.find_handler = find_handler


def add_dashboard(scheduler: Any) -> None:
    """Serve the dashboard under ``/status``, from the first visit on."""
    application = scheduler.http_application
    find = application.find_handler
    added = asyncio.Event()
    adding = asyncio.Lock()

    class FirstVisit(RequestHandler):
        async def get(self) -> None:
            async with adding:
                if not added.is_set():
                    page = await asyncio.to_thread(_import_dashboard)
                    page.connect(application, scheduler.http_server, scheduler)
                    added.set()
            self.redirect("status")  # relative: a token and perhaps a proxy stand before it

    def find_handler(request: Any, **kwargs: Any) -> Any:
        if added.is_set() or request.path != "/status":
            return find(request, **kwargs)
        return application.get_handler_delegate(request, FirstVisit)

    application.find_handler = find_handler


def _import_dashboard() -> Any:
    import distributed.dashboard.scheduler as page

    return page
