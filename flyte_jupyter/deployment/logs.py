"""What the attempts of a run print, read while they print it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from flyte_jupyter.deployment.quiet import quietly
from flyte_jupyter.driver.flyte_sdk.run_log import lines_of

_LAST_LINE = "Flyte runtime completed"
_QUIET = 2.0
"""Seconds without a line after which the log of a run that has ended is taken for whole."""
_PATIENCE = 10.0
"""Seconds after its end that the first line of a log is waited for."""
_AGAIN = 1.0
"""Seconds after which a log that broke off is opened again."""
_USERS = "flyte.user"
"""Name of the logger that Flyte gives to tasks."""
_RECORD = re.compile(r"(\[[^\]\s]*\]){0,2} ?\[flyte\] (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


class RunLogs:
    """The logs of one run.

    Parameters
    ----------
    action
        The run's first action, a `flyte.remote.Action`.
    on_text
        Called with what the task prints, in whole lines.
    """

    def __init__(self, action: Any, on_text: Callable[[str], None]) -> None:
        self._action, self._on_text = action, on_text
        self._reading: dict[int, asyncio.Task[None]] = {}
        self._heard = asyncio.Event()
        self._lines = 0
        self._over = False

    def read(self, attempt: int) -> None:
        """Begin to read the log of an attempt, and of those before it."""
        for each in range(1, attempt + 1):
            if each not in self._reading:
                self._reading[each] = asyncio.ensure_future(self._read(each))

    async def finish(self) -> None:
        """Wait for the rest, now that the run has ended; but not for what does not come."""
        self._over = True
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        while waiting := [task for task in self._reading.values() if not task.done()]:
            self._heard.clear()
            heard = asyncio.ensure_future(self._heard.wait())
            patience = _QUIET if self._lines else end - loop.time()
            try:
                done, _ = await asyncio.wait(
                    [*waiting, heard], timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                heard.cancel()
            if not done:
                return

    def close(self) -> None:
        """Read no more."""
        for task in self._reading.values():
            task.cancel()

    async def _read(self, attempt: int) -> None:
        """Read a log to its end, opening it again where it breaks off."""
        known = 0
        while True:
            known, whole = await self._read_once(attempt, known)
            if whole or (self._over and known):
                return
            await asyncio.sleep(_AGAIN)

    async def _read_once(self, attempt: int, known: int) -> tuple[int, bool]:
        """Read what is beyond the lines that are known; says whether that was all."""
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        async def read() -> None:
            # Without a log the run is still a run; its page has what there is.
            with contextlib.suppress(Exception):
                async for line in lines_of(self._action, attempt):
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

        reading = asyncio.ensure_future(quietly(read))
        count, ended = 0, False
        try:
            while not ended:
                got = [await lines.get()]
                while not lines.empty():  # what came together is shown together
                    got.append(lines.get_nowait())
                ended = got[-1] is None
                new = [line for line in got if line is not None][max(0, known - count) :]
                count += len(got) - ended
                if self._take(new):
                    return count, True
        finally:
            reading.cancel()
        return max(count, known), False

    def _take(self, lines: list[str]) -> bool:
        """Take in lines; tells whether the runtime's last is among them."""
        said = [understood(line) for line in lines]
        if lines:
            self._lines += len(lines)
            self._heard.set()
        if text := "".join(f"{each.text}\n" for each in said if each.text is not None):
            self._on_text(text)
        return any(each.last for each in said)


class Said(NamedTuple):
    """A line of a log: what to show of it, if anything, and whether it is the runtime's last."""

    text: str | None
    last: bool = False


def understood(line: str) -> Said:
    """Tell what a task prints from the SDK's own records, and show those of the user's logger."""
    if _RECORD.match(line):  # before it knew that its records are to be JSON
        return Said(None)
    record = _as_json(line)
    message = str(record.get("message", ""))
    if record.get("is_flyte_internal") is True:
        return Said(None, message.startswith(_LAST_LINE))
    formatted = {"timestamp", "level", "message"} <= record.keys()
    if formatted and str(record.get("logger", "")).startswith(_USERS):
        trace = f"\n{record['exc_info']}" if record.get("exc_info") else ""
        return Said(f"{record['level']} {message}{trace}")
    return Said(line)


def _as_json(line: str) -> dict[str, Any]:
    """Return a line that is a JSON object; an empty one for all others."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}
