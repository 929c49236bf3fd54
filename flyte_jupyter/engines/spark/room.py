"""Applications for whose executors no worker has room: Spark waits for one for ever, in silence.

Whether that is so only the master knows. It is asked until it has started an executor, which it
does at once where it can.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

_LOOKS = 4
"""Times in a row that an application is found waiting beside idle workers before that is told."""
_TIMEOUT = 10.0
_BACKLOG = "spark.dynamicAllocation.schedulerBacklogTimeout"
"""How long tasks wait before an executor is asked for; where it is set that may be long."""


class Room:
    """Looks whether the workers of a cluster can have an application's executors.

    Parameters
    ----------
    pages
        The address below which the master's pages answer.
    """

    def __init__(self, pages: str) -> None:
        self._pages = urlsplit(pages)
        self._served: Any = None
        self._found = 0

    def lack(self, context: Any) -> str:
        """Return what executors ask for and workers have; empty unless a job waits in vain.

        Parameters
        ----------
        context
            The Spark context of the application.
        """
        if context is None or context is self._served:
            return ""
        cluster = self._ask()
        own = [app for app in cluster["activeapps"] if app["id"] == context.applicationId]
        if own and (own[0]["state"] != "WAITING" or context.getConf().contains(_BACKLOG)):
            self._served = context
            return ""
        workers = [worker for worker in cluster["workers"] if worker["state"] == "ALIVE"]
        idle = not any(worker["coresused"] or worker["memoryused"] for worker in workers)
        if not (own and workers and idle and _has_work(context)):
            self._found = 0
            return ""
        self._found += 1
        return compared(context.getConf(), own[0], workers) if self._found >= _LOOKS else ""

    def _ask(self) -> Any:
        connection = http.client.HTTPConnection(self._pages.netloc, timeout=_TIMEOUT)
        try:
            connection.request("GET", f"{self._pages.path}/master/json/")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _has_work(context: Any) -> bool:
    return bool(context.statusTracker().getActiveStageIds())


def compared(conf: Any, application: Any, workers: list[Any]) -> str:
    """Say what an executor asks for, and what the largest worker has.

    Parameters
    ----------
    conf
        The settings of the application.
    application, workers
        As the master tells of them.
    """
    asked = [f"{application['memoryperexecutor']} MiB"]
    if cores := conf.get("spark.executor.cores"):
        asked.append(_cores(int(cores)))
    asked += [f"{each['amount']} {each['name']}" for each in application["resourcesperexecutor"]]
    largest = max(workers, key=lambda worker: (worker["memory"], worker["cores"]))
    has = f"{largest['memory']} MiB, {_cores(largest['cores'])}"
    most = conf.get("spark.cores.max")
    bound = f"; spark.cores.max is {most}" if most else ""
    return f"one asks for {', '.join(asked)}; a worker has {has}{bound}"


def _cores(number: int) -> str:
    return "1 core" if number == 1 else f"{number} cores"
