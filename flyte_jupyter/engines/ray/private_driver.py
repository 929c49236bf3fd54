"""The private names of Ray's that the driver of a cluster uses; `private.py` has those of nodes.

Contract tests fail loudly when a new Ray changes one of:

- `ray.autoscaler.v2.sdk.get_cluster_status`
- `ray._private.ray_constants`: the marks in what workers print
- `ray._private.worker.print_to_stdstream`, which formats what workers print, the deduplicators, and
  `global_worker_stdstream_dispatcher`, which hands it that; `ray._private.worker._global_node`
- `_remote` of remote functions, actor classes and their methods; `PlacementGroup.__init__`
- `CoreWorker`: `kill_actor`, `get_pending_children_task_ids`, `get_current_task_id`,
  `serialize_object_ref` and `deserialize_and_register_object_ref`
- `ray.cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES`, a registry of Ray's own
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle.cloudpickle
import ray
import ray._private.ray_constants
import ray._private.ray_logging
import ray._private.worker
import ray.actor
import ray.cloudpickle.cloudpickle
import ray.remote_function
from ray.util.placement_group import PlacementGroup

from flyte_jupyter.driver import interrupts
from flyte_jupyter.engines.ray.private import HOST

_OF_GROUPS = "_group_"
"""Part of the names of resources that are there when a placement group is."""


Bundles: TypeAlias = tuple[dict[str, float], ...]


def demands() -> tuple[list[dict[str, float]], list[tuple[Bundles, str]]]:
    """Return what each node of this driver's cluster has, and what is waited for.

    The latter as bundles of resources with the strategy of their placement group, which is empty
    for a task or an actor.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes = [
        {usage.resource_name: usage.total for usage in node.resource_usage.usage}
        for node in (*status.active_nodes, *status.idle_nodes)
        if node.resource_usage
    ]
    asked: list[tuple[Bundles, str]] = [
        ((dict(each.bundle),), "")
        for single in status.resource_demands.ray_task_actor_demand
        for each in single.bundles_by_count
        if not any(_OF_GROUPS in name for name in each.bundle)
    ]
    for group in status.resource_demands.placement_group_demand:
        bundles = [dict(b.bundle) for b in group.bundles_by_count for _ in range(b.count)]
        asked.append((tuple(bundles), group.strategy or ""))
    return nodes, asked


MARKS = {
    ray._private.ray_constants.LOG_PREFIX_JOB_ID: "job",
    ray._private.ray_constants.LOG_PREFIX_ACTOR_NAME: "actor_name",
    ray._private.ray_constants.LOG_PREFIX_TASK_NAME: "task_name",
}
"""How a line begins that says to whom the next ones belong, and what it says."""
_PRINTING = "ray_print_logs"
"""The name under which a driver of Ray's prints."""


def present_job() -> str | None:
    """Return the id of the job that this process is the driver of, as workers write it.

    None where it is of none: Ray ends a process that asks then.
    """
    if not ray.is_initialized():
        return None
    job: str = ray._private.worker.global_worker.current_job_id.hex()
    return job


Told: TypeAlias = Callable[[str, Any, dict[str, Any]], None]


def tell_of_submissions(tell: Told) -> None:
    """Have a function called with the name of what is submitted, what that gives, and its options.

    So it is with placement groups that are made, which have none. The name is that by which workers
    mark what they print.
    """
    for kind in (ray.remote_function.RemoteFunction, ray.actor.ActorMethod, ray.actor.ActorClass):
        kind._remote = _telling(kind._remote, tell)
    make = PlacementGroup.__init__

    @functools.wraps(make)
    def make_and_tell(group: Any, id: Any, bundle_cache: Any = None) -> None:  # noqa: A002 - Ray's
        make(group, id, bundle_cache)
        if bundle_cache:  # else it is there already, or stands for none
            tell("", group, {})

    PlacementGroup.__init__ = make_and_tell


def _telling(submit: Any, tell: Told) -> Any:
    @functools.wraps(submit)
    def submit_and_tell(remote: Any, *args: Any, **options: Any) -> Any:
        # An interrupt between the two would leave behind what nobody knows of.
        with interrupts.held():
            given = submit(remote, *args, **options)
            with contextlib.suppress(Exception):  # it has been submitted, noted or not
                tell(_name(remote, options), given, options)
        return given

    return submit_and_tell


def _name(remote: Any, options: Mapping[str, Any]) -> str:
    if isinstance(remote, ray.actor.ActorClass):
        return str(remote.__ray_metadata__.class_name)
    if isinstance(remote, ray.remote_function.RemoteFunction):
        return str(options.get("name") or remote._function.__name__)
    return ""  # what a method prints is its actor's


def object_ids(given: Any) -> list[bytes]:
    """Return the id of one of the refs that a submission has given, if any: it names the task.

    Ray Client has refs of a kind of its own, for tasks that another process submits.
    """
    if isinstance(given, ray.ObjectRefGenerator):
        return [given._generator_ref.binary()]
    refs = given if isinstance(given, list) else [given]
    return [ref.binary() for ref in refs[:1] if type(ref) is ray.ObjectRef]


def present_task() -> Any:
    """Return the id under which this thread submits tasks."""
    return ray._private.worker.global_worker.core_worker.get_current_task_id()


def unfinished(objects: Collection[bytes], parents: Collection[Any]) -> set[bytes]:
    """Return those objects whose task, which one of some parents has submitted, goes on."""
    if not objects:  # also where another process submits: Ray Client
        return set()
    worker = ray._private.worker.global_worker.core_worker
    pending = {
        task.binary() for parent in parents for task in worker.get_pending_children_task_ids(parent)
    }
    return {found for found in objects if found[: ray.TaskID.size()] in pending}


def refs_of(objects: Collection[bytes]) -> list[ray.ObjectRef]:
    """Return refs of this process's objects by which their tasks can be cancelled.

    Ray cancels what somebody holds a ref of, and nobody may any more. They are told to it as it is
    told of refs that come with a pickle.
    """
    if not objects:
        return []
    worker = ray._private.worker.global_worker.core_worker
    *_, owner, status = worker.serialize_object_ref(ray.put(None))
    refs = [ray.ObjectRef(found) for found in objects]
    for ref in refs:
        # One that is held already stays as it is.
        worker.deserialize_and_register_object_ref(ref.binary(), ray.ObjectRef.nil(), owner, status)
    return refs


def remove_group(group: PlacementGroup) -> None:
    """Give back what a placement group holds, unless it has a name by which others find it."""
    if not ray.util.placement_group_table(group).get("name"):
        ray.util.remove_placement_group(group)


def kill_actor(actor: Any) -> None:
    """End an actor by its id, for nobody may have a handle of it any more."""
    ray._private.worker.global_worker.core_worker.kill_actor(actor, True)


def print_lines(batch: Mapping[str, Any]) -> None:
    """Print lines of a worker as Ray's own drivers do: with a prefix, and repeated ones once."""
    ray._private.worker.print_to_stdstream({"ip": HOST, "localhost": HOST, **batch}, False)


def logs_of_this_machine() -> Path | None:
    """Return where workers on this machine write what they print; None if it cannot be read."""
    node = ray._private.worker._global_node
    folder = Path(node.get_logs_dir_path()) if node is not None else None
    return folder if folder and os.access(folder, os.R_OK | os.X_OK) else None


def show_published(shown: bool, *, here: bool) -> None:
    """Have Ray print, or not, what is published of the output of workers.

    Parameters
    ----------
    shown
        Whether to print it.
    here
        Whether that goes for workers of this machine too.
    """
    dispatcher = ray._private.worker.global_worker_stdstream_dispatcher
    dispatcher.remove_handler(_PRINTING)
    if shown:
        dispatcher.add_handler(_PRINTING, functools.partial(_print_published, here))


def _print_published(here: bool, batch: Mapping[str, Any]) -> None:
    # A node says things too, in place of whose process it has its own name.
    if here or batch["ip"] != batch["localhost"] or not isinstance(batch["pid"], int):
        ray._private.worker.print_to_stdstream(batch, False)


def print_held_lines() -> None:
    """Print what is held back in case that it comes again."""
    logging = ray._private.ray_logging
    for deduplicator, sink in (
        (logging.stdout_deduplicator, sys.stdout),
        (logging.stderr_deduplicator, sys.stderr),
    ):
        for batch in deduplicator.flush():
            ray._private.worker.print_worker_logs(batch, sink)


def pickle_local_modules_by_value() -> None:
    """Have Ray, which has a `cloudpickle` of its own, send by value what that one does."""
    registry = cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES
    ray.cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES = registry
