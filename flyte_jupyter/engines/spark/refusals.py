"""Executors of which none comes up: Spark would start them again for ever, dozens in a second.

Only a worker knows what an executor said when it ended, and only the driver whether that had ever
reported to it. So the worker leaves a note when some have ended in a row, and the driver gives an
application up if it has heard of none of them. It does the same where no worker has room for one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flyte_jupyter.engines.spark import failures
from flyte_jupyter.engines.spark.room import Room
from flyte_jupyter.errors import ClusterError

_ENDED = re.compile(r"Executor (\S+)/(\d+) finished with state (?:EXITED|FAILED).*?(?: (\d+))?\s*$")
_NOTE = "refused"
_MANY = 3
"""Executors of one worker that end in a row before that is told."""
_LOOK = 0.5
_PER_ROUND = 4
"""Looks for a note between two questions to the master."""
_SPARKS_OWN = ("Spark Executor Command:", "====", "NOTE: Picked up")
"""How lines begin that the worker writes above what an executor says, and Java of its options."""


class Endings:
    """What a worker logs of the ends of its executors.

    Parameters
    ----------
    folder
        The cluster's.
    work
        The worker's own, in which each executor has a folder.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self._note = folder / "spark" / _NOTE
        self._work = work
        self._application = ""
        self._last: deque[tuple[str, str]] = deque(maxlen=_MANY)

    def read(self, line: str) -> None:
        """Take in a line of the worker's log."""
        match = _ENDED.search(line)
        if match is None:
            return
        application, executor, code = match.groups()
        if application != self._application:
            self._application = application
            self._last.clear()
        self._last.append((executor, code or "?"))
        if len(self._last) == _MANY:
            self._tell()

    def _tell(self) -> None:
        executor, code = self._last[0]  # of which all has been written by now
        path = self._work / self._application / executor / "stderr"
        text = path.read_text(errors="replace") if path.exists() else ""
        lines = [line for line in text.splitlines() if not line.startswith(_SPARKS_OWN)]
        note = {
            "application": self._application,
            "executors": [executor for executor, _ in self._last],
            "said": failures.telling(lines) or f"exit code {code}",
        }
        new = self._note.with_name(f"{_NOTE}-{self._work.name}")
        new.write_text(json.dumps(note))
        new.replace(self._note)


class Watch:
    """Reads such notes in the driver, and asks for room, on a thread of its own.

    Parameters
    ----------
    folder
        The cluster's.
    room
        What its workers have.
    context
        Returns the present Spark context; None if there is none.
    give_up
        Called with a context that gets no executors, and with what is to be raised where one is
        waited for.
    """

    def __init__(
        self,
        folder: Path,
        room: Room,
        context: Callable[[], Any],
        give_up: Callable[[Any, ClusterError], None],
    ) -> None:
        self._note = folder / "spark" / _NOTE
        self._room, self._context, self._give_up = room, context, give_up
        threading.Thread(target=self._run, name="executors", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        for number in itertools.count():
            pause.wait(_LOOK)
            # A context that is being stopped or made is told again, with the next look.
            with contextlib.suppress(Exception):
                if self._note.exists():
                    self._judge()
                if number % _PER_ROUND == 0:
                    self._look_for_room()

    def _judge(self) -> None:
        note = json.loads(self._note.read_text())
        self._note.unlink()
        context = self._context()
        if context is None or context.applicationId != note["application"]:
            return
        known = context._jsc.sc().statusStore().executorList(False)
        names = {known.apply(index).id() for index in range(known.size())}
        if names.isdisjoint(note["executors"]):
            self._give_up(context, failures.no_executors(note["said"]))

    def _look_for_room(self) -> None:
        context = self._context()
        if lack := self._room.lack(context):
            self._give_up(context, failures.no_room(lack))
