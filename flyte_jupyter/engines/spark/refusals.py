"""Executors of which none comes up: Spark would start them again for ever, dozens in a second.

Only a worker knows what an executor said when it ended, and only the driver whether that had ever
reported to it. So the worker leaves a note when some have ended in a row, and the driver gives an
application up if it has heard of none of them.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flyte_jupyter.engines.spark.failures import telling

_ENDED = re.compile(r"Executor (\S+)/(\d+) finished with state (?:EXITED|FAILED).*?(?: (\d+))?\s*$")
_NOTE = "refused"
_MANY = 3
"""Executors of one worker that end in a row before that is told."""
_LOOK = 0.5
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
            "said": telling(lines) or f"exit code {code}",
        }
        new = self._note.with_name(f"{_NOTE}-{self._work.name}")
        new.write_text(json.dumps(note))
        new.replace(self._note)


class Watch:
    """Reads such notes in the driver, on a thread of its own.

    Parameters
    ----------
    folder
        The cluster's.
    context
        Returns the present Spark context; None if there is none.
    give_up
        Called with a context that gets no executors, and with what one of them has said.
    """

    def __init__(
        self, folder: Path, context: Callable[[], Any], give_up: Callable[[Any, str], None]
    ) -> None:
        self._note = folder / "spark" / _NOTE
        self._context, self._give_up = context, give_up
        threading.Thread(target=self._run, name="executors", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK):
            if self._note.exists():
                try:
                    self._judge()
                except Exception:  # noqa: BLE001, S112 - the context is being stopped or made
                    continue  # and the next executors that end are told again

    def _judge(self) -> None:
        note = json.loads(self._note.read_text())
        self._note.unlink()
        context = self._context()
        if context is None or context.applicationId != note["application"]:
            return
        known = context._jsc.sc().statusStore().executorList(False)
        names = {known.apply(index).id() for index in range(known.size())}
        if names.isdisjoint(note["executors"]):
            self._give_up(context, note["said"])
