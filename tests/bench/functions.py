"""What calls of task functions cost, from the notebook and from each other."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.bench.notebook import Notebook, with_extension
from tests.bench.rows import Row, duration, spread

_DECLARE = """\
import time, flyte, flyte_jupyter, numpy
leaf_env = flyte.TaskEnvironment(name="leaves")
env = flyte.TaskEnvironment(name="trunk", depends_on=[leaf_env])
@env.task
async def added(x: int) -> int:
    return x + 1
@env.task
async def doubled(array: numpy.ndarray) -> numpy.ndarray:
    return array * 2
@leaf_env.task
async def leaf(x: int) -> int:
    return x
@leaf_env.task
def slow_leaf(x: int) -> int:
    time.sleep(0.2)
    return x
@env.task
async def nested(rounds: int) -> list:
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        await leaf(number)
        times.append(time.perf_counter() - started)
    return times
@env.task
async def mapped(count: int) -> float:
    started = time.perf_counter()
    assert [x async for x in flyte.map.aio(slow_leaf, range(count))] == list(range(count))
    return time.perf_counter() - started
def timed(call, rounds):
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times
"""
_OURS = "timed(lambda: flyte_jupyter.run({}).result(), {})"
_FLYTES = "timed(lambda: flyte.run({}), {})"


def functions(quick: bool) -> list[Row]:
    """Time task functions that are warm, beside `flyte.run` of the same on this machine.

    Theirs run in the notebook's own process; an array goes through a file.
    """
    rounds = 20 if quick else 100
    with with_extension() as notebook:
        notebook.run(_DECLARE)
        notebook.run("flyte.init()\narray = numpy.ones(12_500_000)")
        small = _both(notebook, "added, 1", rounds)
        large = _both(notebook, "doubled, array", 2 if quick else 5)
        calls = _inside(notebook, f"nested, {rounds}")
        maps = [float(_inside(notebook, "mapped, 8")) for _ in range(3 if quick else 10)]
    return [
        _against("task function, int in and out", *small, 1.5),
        _against("task function, 100 MB of NumPy in and out", *large, 0.1),
        Row(
            "task function called by another, on another environment",
            duration(median(calls)),
            target="<= 5 ms",
            met=median(calls) <= 0.005,
        ),
        Row(
            "flyte.map of 8 tasks that take 0.2 s each",
            spread(maps),
            "1.6 s (one by one)",
            median(maps) / 1.6,
            "<= 0.3 s",
            median(maps) <= 0.3,
        ),
    ]


def _both(notebook: Notebook, call: str, rounds: int) -> tuple[list[float], list[float]]:
    cells = [cell.format(call, rounds) for cell in (_OURS, _FLYTES)]
    for cell in (_OURS, _FLYTES):
        notebook.run(cell.format(call, 2))  # what comes first is not counted
    ours, theirs = (notebook.run(cell).value for cell in cells)
    return ours, theirs


def _inside(notebook: Notebook, call: str) -> Any:
    notebook.run(f"flyte_jupyter.run({call}).result()")
    return notebook.run(f"flyte_jupyter.run({call}).result()").value


def _against(name: str, ours: list[float], theirs: list[float], target: float) -> Row:
    ratio = median(ours) / median(theirs)
    peer = f"{duration(median(theirs))} (flyte.run)"
    return Row(name, duration(median(ours)), peer, ratio, f"<= {target:g}", ratio <= target)
