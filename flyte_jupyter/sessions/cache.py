"""Results of cells that ran before, for environments that ask for a cache.

The key is what Flyte's is for a task: the environment, the code (its syntax tree, so that comments
and blank lines do not count), and the inputs by content. Functions, classes and local modules that
the cell uses count with the inputs, also those that it imports itself; installed packages count by
name. Results lie in a private folder of the user's, so a restarted kernel finds them again. Text
and pictures of the first run are not kept; one line says that nothing was run.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakValueDictionary

from jupyter_core.paths import jupyter_data_dir

from flyte_jupyter.config import FlyteJupyter
from flyte_jupyter.errors import CaptureError, UsageError, one_line
from flyte_jupyter.sessions import local_sources
from flyte_jupyter.sessions.beside import beside, in_thread
from flyte_jupyter.sessions.environments import own_policies
from flyte_jupyter.sessions.fingerprints import Fingerprint
from flyte_jupyter.sessions.refs import Ref
from flyte_jupyter.sessions.result_folder import Abandoned, ResultFolder
from flyte_jupyter.sessions.results import Frozen, freeze, thaw
from flyte_jupyter.sessions.runs import CellTask, Run

_LAST_CHANCE = 0.8
"""Seconds that a write has to come to its end when the session is closed."""


class Cached(NamedTuple):
    """What is kept of a run: its outputs, and when it was."""

    outputs: dict[str, Any]
    made: str


class CellCache:
    """The cache of one session.

    Parameters
    ----------
    config
        The session's settings.
    transform
        Turns a cell's text into Python.
    report
        Called with lines that the user should read.
    """

    def __init__(
        self,
        config: FlyteJupyter,
        transform: Callable[[str], str],
        report: Callable[[str], None],
    ) -> None:
        self._config, self._transform, self._report = config, transform, report
        self._writes: dict[str, Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: set[str] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._making_turns = threading.Lock()

    @property
    def _folder(self) -> Path:
        # Not before it is needed: most runs ask for no cache, and Jupyter looks hard for its place.
        if chosen := self._config.cache_folder:
            return Path(os.path.expanduser(chosen))  # noqa: PTH111 - that of a Path may raise
        return Path(jupyter_data_dir()) / "flyte_jupyter" / "cache"

    # -- keys -------------------------------------------------------------------------------

    def key(self, declared: Any, task: CellTask) -> str:
        """Return the key of a run; empty if it is not to be cached.

        Parameters
        ----------
        declared
            The `flyte.TaskEnvironment`.
        task
            What would run.
        """
        if not task.returns or task.keeps:
            return ""
        policy = policy_of(declared, task)
        if not policy.is_enabled():
            return ""
        values = task.values if task.call is None else task.call
        values = {k: v for k, v in values.items() if k not in policy.get_ignored_inputs()}
        if any(isinstance(value, Ref) for value in values.values()):
            return ""
        try:
            about = [declared.name, _full_name(task), task.returns, policy.salt]
            if task.call is None:
                about += self._content(policy.version_override, task.code, values)
            else:
                about += self._content_of_call(policy.version_override, values)
                about += _versions_of_policies(policy, task.values["task"])
        except UsageError as error:
            self._say_once(f"{task.name} is not cached: {error}")
            return ""
        except Exception:  # noqa: BLE001 - it is named when the cell is compiled or the value sent
            return ""
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _content(self, version: str | None, code: str, values: dict[str, object]) -> list[Any]:
        inputs = Fingerprint(values)
        imports = inputs.imports
        if version is None:
            tree = ast.parse(self._transform(code))
            version = ast.dump(tree)
            imports = imports | local_sources.imported_by(tree)
        return [version, inputs.digest, local_sources.versions(imports)]

    def _content_of_call(self, version: str | None, values: dict[str, object]) -> list[Any]:
        """Of a function: what it is and uses counts, unless the user gives it a version."""
        if version is not None:
            values = {name: value for name, value in values.items() if name}
        inputs = Fingerprint(values)
        return [version, inputs.digest, local_sources.versions(inputs.imports)]

    # -- reading ----------------------------------------------------------------------------

    def look_up(self, declared: Any, task: CellTask) -> tuple[str, Cached | None]:
        """Return the key of a run and what is kept under it.

        Parameters
        ----------
        declared, task
            As for `key`.

        Returns
        -------
        key
            Empty if the run is not to be cached, or cannot be.
        cached
            None if nothing is kept.
        """
        key = self.key(declared, task)
        return self.find(key, policy_of(declared, task)) if key else ("", None)

    def find(self, key: str, policy: Any) -> tuple[str, Cached | None]:
        """Return a key and what is kept under it, as `look_up` does.

        Parameters
        ----------
        key
            The key.
        policy
            The `flyte.Cache` of the run.
        """
        if write := self._writes.get(key):
            write.result()  # the run before has ended, and its result is on the way to the disk
        try:
            with ResultFolder(self._folder) as folder:
                return key, self._read(folder, key, policy)
        except FileNotFoundError:
            return key, None
        except UsageError as error:
            self._say_once(str(error))
        except OSError as error:
            self._say_once(f"the cache folder is not used: {_line(error)}")
        return "", None

    def _read(self, folder: ResultFolder, key: str, policy: Any) -> Cached | None:
        if policy.behavior != "auto":
            return None  # "override" runs anew and replaces what is kept
        try:
            with folder.open(key) as file:
                status = os.fstat(file.fileno())
                # Flyte's zero is no limit either.
                age = policy.max_age.total_seconds() if policy.max_age else float("inf")
                if time.time() - status.st_mtime > age:
                    return None
                outputs = thaw(file, status.st_size)
        except UsageError as error:
            self._say_once(str(error))
            return None
        except (ValueError, CaptureError):
            return None  # it is not whole, or of other versions of packages
        return Cached(outputs, time.strftime("%Y-%m-%d %H:%M", time.localtime(status.st_mtime)))

    def _say_once(self, line: str) -> None:
        """Say what a cell that is run again and again would say every time."""
        if line not in self._said:
            self._said.add(line)
            self._report(line)

    def turn(self, key: str) -> asyncio.Lock:
        """Return the lock that equal runs hold one after the other; from any thread."""
        with self._making_turns:
            return self._turns.setdefault(key, asyncio.Lock())

    # -- writing ----------------------------------------------------------------------------

    async def keep(self, key: str, run: Run) -> None:
        """Keep what a run returned; return once nothing that the user does can change it.

        It is written afterwards. Whatever goes wrong is said, and is not the run's fault.
        """
        done: Future[None] = Future()
        self._writes[key] = done
        try:
            outputs = dict(run.outputs)
            limit = self._config.cache_limit
            frozen = await beside(partial(freeze, outputs, limit), lambda _: None)
            task = asyncio.create_task(self._write(key, frozen, run.id, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        except BaseException as error:
            self._end_write(key, done)
            if not isinstance(error, Exception):
                raise
            self._say_not_kept(run.id, error)

    async def _write(self, key: str, frozen: Frozen, run: str, done: Future[None]) -> None:
        folder, limit, stop = self._folder, self._config.cache_limit, threading.Event()

        def write() -> None:
            with ResultFolder(folder, make=True) as opened:
                opened.write(key, frozen, limit, stop.is_set)

        try:
            writing = asyncio.wrap_future(in_thread(write))
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError:  # the session is closed
                await asyncio.wait([writing], timeout=_LAST_CHANCE)
                stop.set()
                await asyncio.wait([writing], timeout=_LAST_CHANCE)
            if writing.done():
                writing.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run was good
            self._say_not_kept(run, error)
        finally:
            self._end_write(key, done)

    def _end_write(self, key: str, done: Future[None]) -> None:
        if self._writes.get(key) is done:
            del self._writes[key]
        done.set_result(None)

    def _say_not_kept(self, run: str, error: Exception) -> None:
        self._report(f"{run}: its result is not cached: {_line(error)}")


def _line(error: Exception) -> str:
    if isinstance(error, Abandoned):
        return "the session was closed before it was written"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return str(error)


def _full_name(task: CellTask) -> str:
    """Return the name by which Flyte knows a task: what it is called for short is no part of it."""
    template: Any = task.values.get("task")
    return task.name if task.call is None else str(template.name)


def _versions_of_policies(policy: Any, template: Any) -> list[str]:
    """Ask a function's own cache policies; those of Flyte look at its code, which counts anyway."""
    if policy.version_override is not None:
        return []
    from flyte_jupyter.driver.flyte_sdk.cache_policies import version_by

    versions = []
    for each in own_policies(policy):
        try:
            versions.append(version_by(each, policy.salt, template))
        except Exception as error:
            what = f"its cache policy {type(each).__name__} failed"
            raise UsageError(what, seen=one_line(error)) from error
    return versions


def policy_of(declared: Any, task: CellTask) -> Any:
    """Return the `flyte.Cache` of a run."""
    from flyte import Cache

    request = declared.cache if task.cache is None else task.cache
    return Cache(behavior=cast(Any, request)) if isinstance(request, str) else request
