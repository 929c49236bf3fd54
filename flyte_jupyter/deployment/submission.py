"""Sending a task to the deployment that the SDK is configured for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.deployment.quiet import quietly
from flyte_jupyter.deployment.tasks import Sending
from flyte_jupyter.deployment.values import uploaded
from flyte_jupyter.driver.flyte_sdk.status import client_is_configured, heard_by
from flyte_jupyter.errors import DeploymentError, one_line
from flyte_jupyter.images.recipe import is_image

_PERHAPS_TAKEN = ("RunAlreadyExistsError", "RunCreationError", "SystemUnavailableError")
_LOOKS = (0.0, 0.3, 0.7, 1.0)
"""Seconds before each look for a run that was perhaps taken."""
INTERRUPTED = "interrupted in the notebook"
_TELEMETRY = ("DO_NOT_TRACK", "FLYTE_DISABLE_TELEMETRY", "FLYTE_DISABLE_SENTRY")


@dataclass(frozen=True)
class RunOptions:
    """How a task is to be sent.

    Parameters
    ----------
    name
        Of the run there.
    context
        What `flyte.get_custom_context` gives in it.
    env
        Environment variables for it.
    progress
        Called with what is being done.
    """

    name: str
    context: Mapping[str, str]
    env: Mapping[str, str]
    progress: Callable[[str], None]


class MaybeTaken(DeploymentError):
    """A deployment that may have taken a run, and does not answer."""


MaybeTaken.__name__ = "DeploymentError"


def without_telemetry() -> dict[str, str]:
    """Turn the SDK's reports of errors and runs off, unless the user has said what to do with them.

    Returns
    -------
    dict of str
        Environment variables that do the same in a container.
    """
    if not any(os.environ.get(name) for name in _TELEMETRY):
        os.environ["DO_NOT_TRACK"] = "1"
    return {name: os.environ[name] for name in _TELEMETRY if os.environ.get(name)}


async def configure() -> dict[str, str]:
    """See to it that the SDK knows a deployment: one that it was told, or that of its file.

    Returns
    -------
    dict of str
        Environment variables for what runs there.

    Raises
    ------
    DeploymentError
        It knows none.
    """
    import flyte
    import flyte.config

    env = without_telemetry()
    if client_is_configured():
        return env
    found = None
    with contextlib.suppress(Exception):
        found = flyte.config.auto().platform.endpoint
    if not found:
        raise DeploymentError(
            "Flyte is not configured",
            seen="no endpoint is known",
            fix="Call flyte.init_from_config() or flyte.init(endpoint=...) first.",
        )
    try:
        await quietly(flyte.init_from_config.aio)
    except Exception as error:
        raise _refused(error) from error
    return env


async def upload(sending: Sending, progress: Callable[[str], None]) -> dict[str, Any]:
    """Upload what is too large to go with the request; returns the arguments for `submit`.

    Raises
    ------
    DeploymentError
        The deployment does not take it.
    """
    try:
        with heard_by(progress):
            return await quietly(lambda: uploaded(sending.inputs))
    except Exception as error:
        raise _refused(error) from error


async def submit(sending: Sending, inputs: Mapping[str, Any], options: RunOptions) -> Any:
    """Send a task.

    Parameters
    ----------
    sending
        What to send.
    inputs
        Its arguments, as `upload` gives them.
    options
        How.

    Returns
    -------
    flyte.remote.Run
        It was taken.

    Raises
    ------
    DeploymentError
        It was not.
    """
    import flyte

    # A record of the SDK's is one line then, which can be told from what the task prints.
    sender = flyte.with_runcontext(
        mode="remote",
        name=options.name,
        interactive_mode=True,
        log_format="json",
        env_vars=dict(options.env),
        custom_context=dict(options.context),
    )
    try:
        with heard_by(options.progress):
            return await quietly(lambda: sender.run.aio(sending.task, **inputs))
    except Exception as error:
        # The answer may have been lost, and what the SDK then asks again be refused.
        if getattr(error, "code", "") in _PERHAPS_TAKEN and (run := await _look(options.name)):
            return run
        raise _refused(error) from error


async def _look(name: str) -> Any:
    """Return a run that was perhaps taken; None if it was not.

    Raises
    ------
    MaybeTaken
        Nobody can tell.
    """
    try:
        for pause in _LOOKS:
            await asyncio.sleep(pause)
            if run := await _find(name):
                return run
    except Exception as error:
        raise MaybeTaken(
            "it is not known whether Flyte has the run",
            seen=one_line(error),
            fix=f"Look for {name} in its console.",
        ) from error
    return None


def images_of(environment: Any) -> list[Any]:
    """Return the `flyte.Image`s of an environment and of those that it depends on."""
    found, waiting, seen = [], [environment], set()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            waiting += each.depends_on
            if is_image(each.image):
                found.append(each.image)
    return found


async def _find(name: str) -> Any:
    """Return a run by its name; None if there is none.

    Raises
    ------
    Exception
        That cannot be told.
    """
    from connectrpc.code import Code
    from connectrpc.errors import ConnectError
    from flyte.remote import Run

    try:
        return await quietly(lambda: Run.get.aio(name=name))
    except ConnectError as error:
        if error.code != Code.NOT_FOUND:
            raise
        return None


def _refused(error: Exception) -> DeploymentError:
    return DeploymentError("Flyte did not take the run", seen=one_line(error))
