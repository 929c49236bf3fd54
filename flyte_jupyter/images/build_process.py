"""The process in which Docker or Podman is driven, by Flyte's own engine."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
from typing import Any

from flyte_jupyter.errors import one_line

ORDER = "FLYTE_JUPYTER_IMAGE"
"""Environment variable with what is to be built."""
ANSWER = "flyte-jupyter: "
"""What the last line of the output begins with, before what has come of it."""


async def build_image(image: Any, builder: Any, *, force: bool) -> dict[str, Any]:
    """Build an image unless its registry is seen to have it.

    Returns
    -------
    dict
        Its ``uri``, whether it was ``built``, and the ``url`` of the run that built it, if any.
    """
    from flyte.extend import ImageBuildEngine

    if not force and (uri := await existing(image, builder)):
        return {"uri": uri, "built": False}
    # Forced, for else the engine would look once more and believe what it has not seen.
    made = await ImageBuildEngine.build(image, builder=builder, force=True)
    run = made.remote_run
    return {"uri": made.uri or image.uri, "built": True, "url": run.url if run else ""}


async def existing(image: Any, builder: Any) -> str | None:
    """Return the address of an image that somebody has seen in its registry."""
    from flyte.extend import ImageBuildEngine

    tag = image._final_tag
    if image.name is None or tag == "latest":
        return None
    repository = f"{image.registry}/{image.name}" if image.registry else image.name
    for checker in ImageBuildEngine._get_builder(builder).get_checkers() or ():
        try:
            return await checker.image_exists(repository, tag, tuple(image.platform))
        except Exception:  # noqa: BLE001, S112 - this one cannot tell; the next may
            continue
    return None


def main() -> None:
    """Run as ``python -m flyte_jupyter.images.build_process``, with the order in the environment.

    It is not on the command line, for an image may hold the password of an index.
    """
    import flyte

    image, builder, force, settings = pickle.loads(base64.b64decode(os.environ.pop(ORDER)))

    async def build() -> dict[str, Any]:
        await flyte.init.aio(**settings, load_plugin_type_transformers=False)
        return await build_image(image, builder, force=force)

    try:
        found = asyncio.run(build())
    except Exception as error:  # noqa: BLE001 - whoever waits says it
        found = {"error": one_line(error)}
    print(f"\n{ANSWER}{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
