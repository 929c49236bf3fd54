"""What the workers of a job print, brought into the cell that caused it.

Ray has a process look for new lines every so often, which publishes them to the driver, which
prints them some time later: in the next cell, perhaps. The files are on this machine; so the driver
reads them itself, all the time on a thread, and once more before a cell ends. What a task has
printed when `ray.get` returns is then in the output of that cell.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyte_jupyter.engines.ray import private_driver

_NAME = re.compile(r"worker-[0-9a-f]+-[0-9a-f]*-(\d+)\.(out|err)")
_PAUSE = 0.1
_MOST = 1 << 20
"""Bytes that are read of one file at a time."""
_MOST_READS = 64
"""How often each file is read before a cell ends."""


@dataclass
class _File:
    """One stream of one worker, and how far it has been read."""

    path: str
    pid: int
    is_err: bool
    offset: int = 0
    rest: bytes = b""
    marks: dict[str, str | None] = field(default_factory=dict)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield batches of new lines, each with whose they are."""
        with open(self.path, "rb") as file:  # noqa: PTH123 - many times a second
            file.seek(self.offset)
            data = file.read(_MOST)
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        batch: list[str] = []
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            mark = next((m for m in private_driver.MARKS if text.startswith(m)), None)
            if mark is None:
                batch.append(text)
                continue
            if batch:
                yield self._batch(batch)
                batch = []
            self._note(private_driver.MARKS[mark], text.removeprefix(mark))
        if batch:
            yield self._batch(batch)

    def _note(self, what: str, text: str) -> None:
        if what != "job":
            self.marks["actor_name"] = self.marks["task_name"] = None
        self.marks[what] = text

    def _batch(self, lines: list[str]) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "is_err": self.is_err,
            "lines": lines,
            "job": self.marks.get("job"),
            "actor_name": self.marks.get("actor_name"),
            "task_name": self.marks.get("task_name"),
        }


class WorkerOutput:
    """Prints what workers of this process's job write into a folder.

    Parameters
    ----------
    folder
        Where the workers of all nodes write what they print.
    began
        The time before which nothing was written of this job, in seconds since the epoch.
    """

    def __init__(self, folder: Path, began: float) -> None:
        self._folder = folder
        self._files: dict[str, _File | None] = {}
        for file in self._grown():
            written = os.stat(file.path)  # noqa: PTH116 - as text
            if written.st_mtime < began:
                file.offset = written.st_size
        self.context_of: Callable[[str | None], contextvars.Context | None] = lambda _: None
        """Finds the context of the run that has submitted what bears a name, if it is but one."""
        # Else a run that drains what all have written would have it all.
        self._present = contextvars.Context()
        self._reading = threading.Lock()
        self._shown = True
        threading.Thread(target=self._follow, name="ray-output", daemon=True).start()

    def show(self, shown: bool) -> None:
        """Print what is written from now on, or pass over it."""
        with self._reading:
            self._read_all()
            self._shown = shown

    def drain(self) -> None:
        """Print everything that has been written until now."""
        with self._reading:
            self._read_all()

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """Print it all before the present job is left, and look for nothing while it is."""
        with self._reading:
            self._read_all()
            yield

    def _read_all(self) -> None:
        # As far as it goes now: a worker may write faster than this reads.
        for _ in range(_MOST_READS):
            if not self._read():
                break
        self._present.run(private_driver.print_held_lines)

    def _follow(self) -> None:
        pause = threading.Event()
        while not pause.wait(_PAUSE):
            with self._reading:
                self._read()

    def _read(self) -> bool:
        """Print what has been written since; tells whether there was anything."""
        try:
            job = private_driver.present_job()
            grown = list(self._grown())
        except Exception:  # noqa: BLE001 - Ray is being left, or its folder has just gone
            return False
        if job is None:
            return False
        for file in grown:
            for batch in file.read():
                if batch["job"] == job and self._shown:
                    name = batch["actor_name"] or batch["task_name"]
                    (self.context_of(name) or self._present).run(private_driver.print_lines, batch)
        return bool(grown)

    def _grown(self) -> Iterator[_File]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name not in self._files:
                    self._files[entry.name] = _file(entry)
                file = self._files[entry.name]
                if file is not None and entry.stat().st_size > file.offset:
                    yield file


def _file(entry: os.DirEntry[str]) -> _File | None:
    match = _NAME.fullmatch(entry.name)
    return _File(entry.path, int(match[1]), match[2] == "err") if match else None
