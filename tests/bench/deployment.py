"""What following a run costs beyond sending it by the SDK itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from tests.bench.notebook import TIMED, with_extension
from tests.bench.rows import Row, duration
from tests.flyte_backend.running import backend

_DECLARE = """\
import flyte, flyte_jupyter
env = flyte.TaskEnvironment(name="env", image="registry/image:1")

@env.task
async def double(x: int) -> int:
    return 2 * x

async def by_itself():
    run = await flyte.with_runcontext(mode="remote", interactive_mode=True).run.aio(double, 3)
    await run.wait.aio(quiet=True)
    assert (await run.outputs.aio())[0] == 6

async def here():
    assert await flyte_jupyter.run(double, 3, on="flyte") == 6
"""


def deployment(quick: bool) -> list[Row]:
    """Time a function that is sent to a backend, beside the SDK's own client without a log."""
    rounds = 3 if quick else 10
    with (
        tempfile.TemporaryDirectory(prefix="flyte-jupyter-") as folder,
        backend(Path(folder)) as running,
        with_extension() as notebook,
    ):
        notebook.run(f"{running.init}\n{_DECLARE}\n{TIMED}")
        times = {}
        for name in ("here", "by_itself"):
            notebook.run(f"await timed({name}, 1)")
            times[name] = median(notebook.run(f"await timed({name}, {rounds})").value)
    return [
        Row(
            "task function on a Flyte deployment (processes for containers)",
            duration(times["here"]),
            f"{duration(times['by_itself'])} (flyte.run, without its log)",
            times["here"] / times["by_itself"],
        )
    ]
