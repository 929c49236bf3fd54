"""What each run has given to Ray, so that it ends with a run that fails or is stopped.

Ray ends what a driver has submitted when that driver ends. Here it stays for the next cell, which
would wait behind tasks that nobody waits for; and so would the next attempt of a run.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from flyte_jupyter.driver.present import PresentRun, present_run
from flyte_jupyter.engines.ray import private_driver
from flyte_jupyter.engines.ray.demands import Look

_GRACE = 3.0
"""Seconds that a task has to take notice, before the worker that runs it is ended."""
_GONE = (TypeError, ValueError, ray.exceptions.RayError)
"""What Ray raises of a task of an actor's that is to be forced, and of all that is of a job which
has been left."""
_FEW = 1000
"""So many tasks are remembered without a look which of them have ended."""


class Submissions:
    """Notes what the runs of this process submit, for as long as they run.

    Parameters
    ----------
    own
        Whether the cluster is this environment's own: another may get the nodes that it lacks.
    drain
        Prints what workers have written until now.
    """

    def __init__(self, *, own: bool, drain: Callable[[], None]) -> None:
        self._own, self._drain = own, drain
        self._lock = threading.Lock()
        self._of: dict[PresentRun, _Submitted] = {}
        private_driver.tell_of_submissions(self._note)

    def context_of(self, name: str | None) -> contextvars.Context | None:
        """Return the context of the one run that has submitted what bears a name.

        None if there is no such run, or several.
        """
        with self._lock:
            found = [each for each in self._of.values() if name in each.names]
        return found[0].context if len(found) == 1 else None

    def _of_run(self, run: PresentRun) -> _Submitted:
        with self._lock:  # a run may have several threads
            if run in self._of:
                return self._of[run]
            submitted = self._of[run] = _Submitted()
        if threading.current_thread() is not threading.main_thread():
            # Of cells this is done before IPython's last events.
            run.when_ended(lambda _: self._drain())
        run.when_ended(submitted.end)
        run.when_ended(lambda _: self._forget(run))
        if self._own:
            look = Look(submitted.goes_on)
            run.when_ended(lambda _: look.end())
        return submitted

    def _forget(self, run: PresentRun) -> None:
        with self._lock:
            self._of.pop(run, None)

    def _note(self, name: str, given: Any, options: dict[str, Any]) -> None:
        run = present_run()
        if run is None or run.ended:
            return
        submitted = self._of_run(run)
        submitted.names.add(name)
        if isinstance(given, ray.actor.ActorHandle):
            # Others may have been told of an actor with a name, and one may outlive its job.
            if not options.get("name") and not options.get("lifetime"):
                submitted.actors.append(given._actor_id)
        elif isinstance(given, PlacementGroup):
            submitted.groups.append(given)
        elif tasks := private_driver.object_ids(given):
            submitted.add(tasks)


class _Submitted:
    """What one run has submitted.

    Refs are known by their ids alone: what holds a ref holds its value too.
    """

    def __init__(self) -> None:
        self.context = contextvars.copy_context()
        self.names: set[str] = set()
        self.actors: list[Any] = []
        self.groups: list[PlacementGroup] = []
        self._tasks: set[bytes] = set()
        self._parents: set[Any] = set()
        self._most = _FEW
        self._lock = threading.Lock()

    def add(self, tasks: list[bytes]) -> None:
        """Take tasks in, by the id of a ref of each."""
        with self._lock:
            self._tasks.update(tasks)
            self._parents.add(private_driver.present_task())
            if len(self._tasks) > self._most:
                self._tasks = private_driver.unfinished(self._tasks, self._parents)
                self._most = max(_FEW, 2 * len(self._tasks))

    def goes_on(self) -> bool:
        """Whether some of it has not ended, as far as that can be told."""
        if not ray.is_initialized():
            return False
        with self._lock:
            return bool(self.groups or self._unfinished())

    def end(self, error: BaseException | None) -> None:
        """End what has not ended, of a run that has kept nothing of it."""
        if error is None or not ray.is_initialized():
            return
        with self._lock:
            tasks = private_driver.refs_of(self._unfinished())
        for task in tasks:
            _cancel(task, force=False)
        for actor in self.actors:
            with contextlib.suppress(*_GONE):
                private_driver.kill_actor(actor)
        for group in self.groups:
            with contextlib.suppress(*_GONE):
                private_driver.remove_group(group)
        if tasks:
            job = private_driver.present_job()
            timer = threading.Timer(_GRACE, self._insist, (tasks, job))
            timer.daemon = True
            timer.start()

    def _unfinished(self) -> set[bytes]:
        return private_driver.unfinished(self._tasks, self._parents)

    def _insist(self, tasks: list[Any], job: str | None) -> None:
        for task in tasks:
            if private_driver.present_job() != job:
                return  # it has been left, and asking would begin another
            with contextlib.suppress(Exception):  # it has ended, or its job; the others go on
                ray.cancel(task, force=True)


def _cancel(task: Any, *, force: bool) -> None:
    with contextlib.suppress(*_GONE):
        ray.cancel(task, force=force)
