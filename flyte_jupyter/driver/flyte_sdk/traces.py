"""What traced steps of a run returned: an attempt runs no step again that the one before has done.

The SDK's local controller names each step by its function, its inputs and how often it was called,
and remembers nothing. On a deployment an attempt finds what the one before has done; so it does
here, in the folder of its run.
"""

from __future__ import annotations

import contextlib
import inspect
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
from flyte._internal.controllers import TraceInfo

from flyte_jupyter.driver.flyte_sdk.context import current_task_context


def replay(info: TraceInfo, step: Callable[..., Any]) -> None:
    """Give a step that is about to run what it returned in an attempt before this one.

    Parameters
    ----------
    info
        What the SDK knows of it; with an output it is not run.
    step
        The function.
    """
    if inspect.isasyncgenfunction(step):
        return  # the SDK would yield what is kept, and run it again after that
    with contextlib.suppress(FileNotFoundError):
        info.output = pickle.loads(_place(info).read_bytes())


def keep(info: TraceInfo) -> None:
    """Keep what a step returned; one that failed is to run again.

    A value that cannot be pickled is not kept: the step runs again, as it would without a trace.
    """
    if info.error is not None or info.output is None:
        return
    place = _place(info)
    try:
        kept = cloudpickle.dumps(info.output)
    except Exception:  # noqa: BLE001 - whatever code of the user's raises
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a driver that is killed leaves no half of it.
    aside = place.with_name(f"{place.name}-{secrets.token_hex(4)}")
    aside.write_bytes(kept)
    aside.replace(place)


def _place(info: TraceInfo) -> Path:
    return Path(current_task_context().run_base_dir) / "traces" / str(info.action.name)
