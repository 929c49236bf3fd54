"""The driver of a Ray cluster: connected before the first cell runs."""

from __future__ import annotations

import contextvars
import functools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from IPython.core.getipython import get_ipython

from flyte_jupyter.driver.present import is_alone
from flyte_jupyter.driver.refs import any_kept
from flyte_jupyter.engines.engine import Member
from flyte_jupyter.engines.ray import private, private_driver
from flyte_jupyter.engines.ray.groups import HEAD
from flyte_jupyter.engines.ray.job_environment import stamp, use_here
from flyte_jupyter.engines.ray.submissions import Submissions
from flyte_jupyter.engines.ray.worker_output import WorkerOutput
from flyte_jupyter.errors import EngineError

_RENEWING = ("namespace", "runtime_env", "job_config", "logging_config")
"""Options of `ray.init` for which a job is given up and another begun."""
_ANSWERING = 5.0
"""Seconds that a head has to accept a connection."""
_HEEDED = ("ignore_reinit_error", "log_to_driver")
_SHAPE = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")


def connect(member: Member) -> None:
    """Make this process the driver of a job in its cluster.

    Raises
    ------
    EngineError
        The cluster that the environment names does not let it in.
    """
    address = member.args["address"]
    head: Mapping[str, Any] = {}
    if not address:
        private.use_token(member.args["token"])
        head = member.wait_for(HEAD)
        address = head["address"]
        os.environ["RAY_OVERRIDE_DASHBOARD_URL"] = head["dashboard"]  # where it needs no token
    elif "://" not in address and address != "auto":
        _look_for(address)
    # For what reads the environment: Ray in a subprocess of the cell, and Flyte's own plugin.
    os.environ["RAY_ADDRESS"] = address
    private_driver.pickle_local_modules_by_value()
    use_here(member.args["runtime_env"])
    connection = _Connection(ray.init, address, member.args["runtime_env"], own=bool(head))
    ray.init = connection.init
    if shell := get_ipython():
        shell.events.register("pre_run_cell", connection.renew_if_edited)
        shell.events.register("post_execute", connection.note_use)
    began = time.time() - 1  # files are stamped by a clock that is a little behind
    if not ray.is_initialized():
        connection.begin({})
    output = None
    # Of a cluster that is named it is read too, as far as it is written on this machine.
    if folder := Path(head["session"]) / "logs" if head else private_driver.logs_of_this_machine():
        output = _show_output_of_workers(folder, began)
        connection.show_read = output.show
        connection.show(True)
        ray.shutdown = _leaving(output, ray.shutdown)
    submissions = Submissions(own=bool(head), drain=output.drain if output else lambda: None)
    if output is not None:
        output.context_of = submissions.context_of


def _look_for(address: str) -> None:
    """See that somebody listens at an address that the environment names; Ray tries for a minute.

    Raises
    ------
    EngineError
        Nobody does.
    """
    host, _, port = address.rpartition(":")
    if host in ("127.0.0.1", "localhost") and not _answers(ray.util.get_node_ip_address(), port):
        private.use_loopback()
    elif _answers(host, port):
        return
    if not _answers(host, port):
        raise EngineError(
            f"no Ray cluster is at {address}",
            seen="nobody answers there",
            fix="Name the head's address in RayJobConfig(address=...), as HOST:PORT.",
        )


def _answers(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERING).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _show_output_of_workers(folder: Path, began: float) -> WorkerOutput:
    output = WorkerOutput(folder, began)
    shell = get_ipython()
    if shell is not None:
        shell.events.register("post_execute", output.drain)
    return output


def _leaving(output: WorkerOutput, shutdown: Callable[..., None]) -> Callable[..., None]:
    """Leave a job when what its workers have printed is shown: afterwards it is nobody's."""

    @functools.wraps(shutdown)
    def leave(*args: Any, **kwargs: Any) -> None:
        with output.leaving():
            shutdown(*args, **kwargs)

    return leave


class _Connection:
    """Stands in for `ray.init` in a process that has a cluster.

    Parameters
    ----------
    init
        Ray's own.
    address, runtime_env
        What the environment declares.
    own
        Whether the cluster is this environment's own, and not one that it has named.
    """

    def __init__(
        self, init: Callable[..., Any], address: str, runtime_env: dict[str, Any], *, own: bool
    ) -> None:
        self._init, self._address, self._own = init, address, own
        self._runtime_env = runtime_env
        self._options: dict[str, Any] = {}
        self._used = False
        self._present_env: Mapping[str, Any] = {}
        self._stamp = self._said = ""
        self.show_read: Callable[[bool], None] | None = None
        """Has what workers of this machine print shown, or not, where it is read."""
        self._shown = True

        @functools.wraps(init)
        def stand_in(address: str | None = None, **options: Any) -> Any:
            context = self._again(address, options)
            if (shown := options.get("log_to_driver")) is not None:
                self.show(bool(shown))
            return context

        self.init = stand_in

    def _again(self, address: str | None, options: dict[str, Any]) -> Any:
        if address not in (None, "auto", self._address):
            if ray.is_initialized():
                raise EngineError(
                    "this driver belongs to the cluster of its environment",
                    seen=f"ray.init(address={address!r})",
                    fix="Name another cluster in the environment: RayJobConfig(address=...).",
                )
            return self._init(address, **options)
        if shape := [name for name in _SHAPE if options.get(name) is not None]:
            raise EngineError(
                "the cluster is there already",
                seen=f"ray.init({shape[0]}=...)",
                fix="Say in RayJobConfig what its nodes have.",
            )
        _name_unheeded(options)
        asked = {name: options[name] for name in _RENEWING if options.get(name) is not None}
        if ray.is_initialized():
            if asked in ({}, self._options) or options.get("ignore_reinit_error"):
                return self._init(ignore_reinit_error=True, logging_level=logging.WARNING)
            if self._used:
                sys.stderr.write(
                    f"ray.init({', '.join(asked)}): another job begins; actors and objects of the "
                    "one before are gone.\n"
                )
            ray.shutdown()
        return self.begin(asked)

    def show(self, shown: bool) -> None:
        """Have what workers print shown, or not."""
        self._shown = shown
        if not self._own:
            private_driver.show_published(shown, here=self.show_read is None)
        if self.show_read is not None:
            self.show_read(shown)

    def note_use(self) -> None:
        """Note that a cell has had the present job."""
        self._used = self._used or ray.is_initialized()

    def renew_if_edited(self, info: Any) -> None:
        """Begin another job where code has been edited that workers have copies of.

        Where something is kept of the present one, or another run has it, that is said instead.
        """
        del info
        if not self._stamp or not ray.is_initialized():
            return
        present = stamp(self._present_env)
        if present in ("", self._stamp):
            return
        if is_alone() and not any_kept():
            shown = self._shown
            ray.shutdown()
            self.begin(self._options)
            self.show(shown)
        elif present != self._said:
            self._said = present
            reason = "refs are kept" if any_kept() else "another run has this job"
            sys.stderr.write(
                "Code below working_dir or py_modules was edited and workers have it as it was, "
                f"for {reason}: %flyte restart begins another job.\n"
            )

    def begin(self, asked: dict[str, Any]) -> Any:
        """Begin a job, with the environment's own runtime environment below what is asked for."""
        variables = {
            **self._runtime_env.get("env_vars", {}),
            **(asked.get("runtime_env") or {}).get("env_vars", {}),
        }
        runtime_env = {**self._runtime_env, **(asked.get("runtime_env") or {})}
        if variables:
            runtime_env["env_vars"] = variables
        self._present_env, self._stamp = runtime_env, stamp(runtime_env)
        options = {
            **asked,
            "address": self._address,
            "runtime_env": dict(runtime_env) or None,  # Ray puts what it has uploaded for paths
            "log_to_driver": not self._own,  # our own workers' output is read where it is written
            "logging_level": logging.WARNING,
        }
        self._options, self._used = asked, False
        handler = signal.getsignal(signal.SIGTERM)
        try:
            # What Ray's threads print belongs to the cell that runs then, not to this one.
            context = contextvars.Context().run(functools.partial(self._init, **options))
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise EngineError(
                f"Ray at {self._address} does not let this driver in",
                seen=(str(error).strip().splitlines() or [type(error).__name__])[0],
                fix="" if self._own else "Is it up, and is RAY_AUTH_TOKEN that of this cluster?",
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)
        self.show(True)
        return context


def _name_unheeded(options: Mapping[str, Any]) -> None:
    known = {*_SHAPE, *_RENEWING, *_HEEDED}
    if names := [n for n, value in options.items() if n not in known and value is not None]:
        sys.stderr.write(
            f"ray.init({', '.join(f'{name}=...' for name in names)}): that changes nothing here, "
            "for the cluster is there already.\n"
        )
