"""Sending a task to the deployment that the SDK is configured for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from flyte_jupyter.deployment.quiet import quietly
from flyte_jupyter.deployment.tasks import Sending, by_value
from flyte_jupyter.deployment.values import uploaded
from flyte_jupyter.driver.flyte_sdk.status import heard_by
from flyte_jupyter.errors import DeploymentError, FlyteJupyterError, one_line
from flyte_jupyter.images.recipe import is_image

_NOT_CONFIGURED = ("ClientNotInitializedError", "NotInitConfiguredError")
INTERRUPTED = "interrupted in the notebook"
_TELEMETRY = ("DO_NOT_TRACK", "FLYTE_DISABLE_TELEMETRY", "FLYTE_DISABLE_SENTRY")


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


async def submit(
    sending: Sending,
    name: str,
    context: Mapping[str, str],
    progress: Callable[[str], None],
) -> Any:
    """Send a task.

    Parameters
    ----------
    sending
        What to send.
    name
        Of the run there.
    context
        What `flyte.get_custom_context` gives in it.
    progress
        Called with what is being done, such as the building of an image.

    Returns
    -------
    flyte.remote.Run
        It was taken.

    Raises
    ------
    DeploymentError
        It was not: the SDK is not configured, its image cannot be built, or the deployment refuses.
    """
    from flyte.errors import InitializationError

    env = without_telemetry()
    try:
        with heard_by(progress), by_value():
            try:
                return await _submit(sending, name, context, env)
            except InitializationError as error:
                if error.code not in _NOT_CONFIGURED:
                    raise
                await _configure()
            return await _submit(sending, name, context, env)
    except FlyteJupyterError:
        raise
    except Exception as error:
        raise _refused(error) from error


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


async def _submit(
    sending: Sending, name: str, context: Mapping[str, str], env: dict[str, str]
) -> Any:
    import flyte

    inputs = await quietly(lambda: uploaded(sending.inputs))
    # A record of the SDK's is one line then, which can be told from what the task prints.
    sender = flyte.with_runcontext(
        mode="remote",
        name=name,
        interactive_mode=True,
        log_format="json",
        env_vars=env,
        custom_context=dict(context),
    )
    return await quietly(lambda: sender.run.aio(sending.task, **inputs))


async def abort_by_name(name: str) -> bool:
    """Abort a run whose sending was cut short; tells whether nothing of it can go on.

    Parameters
    ----------
    name
        Of the run.
    """
    from connectrpc.code import Code
    from connectrpc.errors import ConnectError
    from flyte.remote import Run

    for pause in (0.0, 1.0):  # the request may still be on its way
        await asyncio.sleep(pause)
        try:
            run = await Run.get.aio(name=name)
            await run.abort.aio(reason=INTERRUPTED)
        except ConnectError as error:
            if error.code != Code.NOT_FOUND:
                return False
        except Exception:  # noqa: BLE001 - whatever it is, nothing is known of the run
            return False
        else:
            return True
    return True


async def _configure() -> None:
    """Configure the SDK from the file that its own command line would use."""
    import flyte
    import flyte.config

    found = None
    with contextlib.suppress(Exception):
        found = flyte.config.auto().platform.endpoint
    if not found:
        raise DeploymentError(
            "Flyte is not configured",
            seen="no endpoint is known",
            fix="Call flyte.init_from_config() or flyte.init(endpoint=...) first.",
        ) from None
    await flyte.init_from_config.aio()


def _refused(error: Exception) -> DeploymentError:
    return DeploymentError("Flyte did not take the run", seen=one_line(error))
