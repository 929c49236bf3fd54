"""Building an image for real, and saying what has come of it.

Flyte's own engine builds. Where it has nothing to build with, it takes for granted that the image
exists and says that all is well; so what it needs is looked for before, and what it says is not
taken for an answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import cloudpickle

from flyte_jupyter.backends.local.packages.commands import CommandFailed, output_of
from flyte_jupyter.errors import ImageError, one_line
from flyte_jupyter.images.build_process import ANSWER, ORDER, build_image, existing

_PROCESS = "flyte_jupyter.images.build_process"
_ENGINES = {"local": ("docker", "Docker"), "local-podman": ("podman", "Podman")}
_ELSEWHERE = "or build on a Flyte backend: --builder remote"
_ANSWER_TIME = 20.0
"""Seconds that a container engine has to say that it is there."""


@dataclass(frozen=True)
class Built:
    """What has come of building an image.

    Parameters
    ----------
    uri
        Its address.
    how
        ``built``, or why nothing had to be.
    builder
        What built it.
    seconds
        How long that took.
    url
        The page of the run that built it, where it was one.
    """

    uri: str
    how: str
    builder: str
    seconds: float
    url: str = ""


def build(
    image: Any,
    *,
    builder: str = "",
    registry: str = "",
    force: bool = False,
    progress: Callable[[str], None] = print,
    stopped: Callable[[], bool] = lambda: False,
) -> Built:
    """Build an image and push it to its registry; blocks, and can be interrupted.

    Parameters
    ----------
    image
        A `flyte.Image`.
    builder
        ``local`` (Docker), ``local-podman``, ``remote``, or the name of a plugin's; by default what
        Flyte is configured for, else ``local``.
    registry
        Where to push it, instead of where the image says.
    force
        Whether to build it although its registry has it.
    progress
        Called with each line that the builder writes.
    stopped
        Asked now and then, where no interrupt is heard, whether to leave it.

    Raises
    ------
    ImageError
        Nothing was built.
    """
    if registry:
        image = image.clone(registry=registry)
    if image.base_image and not image._is_cloned:
        return Built(image.uri, "is there already: it adds nothing to a published image", "", 0.0)
    chosen = builder or _configured("image_builder") or "local"
    begun = time.monotonic()
    if chosen in _ENGINES:
        _check_engine(image, chosen)
        answer = _in_process(image, chosen, force=force, progress=progress, stopped=stopped)
    else:
        answer = _here(image, chosen, force=force, stopped=stopped)
    how = "built" if answer["built"] else "is there already; --force builds it anew"
    return Built(answer["uri"], how, chosen, time.monotonic() - begun, answer.get("url", ""))


def ensure(image: Any, progress: Callable[[str], None], stopped: Callable[[], bool]) -> None:
    """Have an image built that a deployment is to run, unless its registry has it; blocks.

    Parameters
    ----------
    image
        A `flyte.Image`.
    progress
        Called with each line that the builder writes.
    stopped
        Asked now and then whether to leave it.

    Raises
    ------
    ImageError
        It cannot be built, and nobody has seen it.
    KeyboardInterrupt
        It was stopped.
    """
    try:
        build(image, progress=progress, stopped=stopped)
    except ImageError as error:
        builder = _configured("image_builder") or "local"
        if not asyncio.run(existing(image, builder)):
            fix = "Name an image that is there, or have Flyte build it: image_builder='remote'"
            raise ImageError(error.what, seen=error.seen, fix=fix) from None


def _configured(field: str) -> Any:
    """Return what `flyte.init` was told; None if it was not."""
    from flyte._initialize import _get_init_config

    return getattr(_get_init_config(), field, None)


def _settings() -> dict[str, Any]:
    """Return what `flyte.init` was told that matters to a build."""
    told = {field: _configured(field) for field in ("image_registry", "images", "root_dir")}
    return {field: value for field, value in told.items() if value}


def _not_built(image: Any, *, seen: str, fix: str = "") -> ImageError:
    return ImageError(f"nothing was built of {image.name or image.uri}", seen=seen, fix=fix)


def _check_engine(image: Any, builder: str) -> None:
    command, name = _ENGINES[builder]
    if shutil.which(command) is None:
        raise _not_built(
            image, seen=f"{name} is not installed", fix=f"Install {name}, {_ELSEWHERE}"
        )
    # `info` fails where only the client is there; `version` says nothing of Podman's.
    try:
        asked = subprocess.run(
            [command, "info"], capture_output=True, text=True, timeout=_ANSWER_TIME, check=False
        )
        lines = [line.strip() for line in asked.stderr.splitlines() if line.strip()]
        words = lines[-1] if asked.returncode and lines else ""
        failed = asked.returncode != 0
    except subprocess.TimeoutExpired:
        failed, words = True, f"no answer within {_ANSWER_TIME:g} s"
    if failed:
        raise _not_built(
            image,
            seen=f"{name} is installed but does not run: {words}",
            fix=f"Start {name}, {_ELSEWHERE}",
        )


def _in_process(
    image: Any,
    builder: str,
    *,
    force: bool,
    progress: Callable[[str], None],
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    """Build in a process that ends with this one, and whose output is the cell's."""
    order = base64.b64encode(cloudpickle.dumps((image, builder, force, _settings()))).decode()
    command = [sys.executable, "-P", "-m", _PROCESS]
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if not line.startswith(ANSWER):
            progress(line)

    try:
        output_of(command, {**os.environ, ORDER: order}, hear, stopped)
    except CommandFailed:
        raise _not_built(image, seen=lines[-1] if lines else "its builder said nothing") from None
    answers = [line.removeprefix(ANSWER) for line in lines if line.startswith(ANSWER)]
    if not answers:
        raise _not_built(image, seen="its builder ended without a word")
    found: dict[str, Any] = json.loads(answers[-1])
    if "error" in found:
        raise _not_built(image, seen=found["error"])
    return found


def _here(image: Any, builder: str, *, force: bool, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Build with what needs the notebook's own connection to Flyte, on a thread beside."""
    if builder == "remote" and _configured("client") is None:
        raise _not_built(
            image,
            seen="no Flyte backend is configured",
            fix="Type: flyte.init_from_config(), or build here: --builder local",
        )
    done: Future[dict[str, Any]] = Future()
    loop = asyncio.new_event_loop()
    task = loop.create_task(build_image(image, builder, force=force))

    def work() -> None:
        try:
            done.set_result(loop.run_until_complete(task))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)
        finally:
            loop.close()

    threading.Thread(target=work, name="image", daemon=True).start()
    try:
        while not done.done():
            if stopped():
                raise KeyboardInterrupt
            time.sleep(0.1)
        return done.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        raise
    except Exception as error:
        raise _not_built(image, seen=one_line(error)) from error
