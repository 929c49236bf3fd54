"""How soon printed text arrives, and what becomes of a flood of it."""

from __future__ import annotations

import time
from statistics import median

from tests.bench.clusters import ENGINES, Cluster
from tests.bench.memory import Peak
from tests.bench.notebook import Notebook, with_cluster
from tests.bench.rows import MIB, Row, duration, size, spread

_PRINT = """%%flyte_task {environment}
import time
for _ in range({count}):
    print(time.time())
    time.sleep(0.1)
"""
_FLOOD = """%%flyte_task {environment} --bg flood
for number in range(1_000_000):
    print("line", number)
"""
_CHECK = """lines = flood.log().splitlines()
wrong = sum(a != f"line {b}" for a, b in zip(lines, range(1_000_000)))
wrong + abs(1_000_000 - len(lines))
"""


def printing(quick: bool) -> list[Row]:
    """Time a line's way from ``print`` in a task to the notebook's client, while the task goes on.

    On each engine. The line says when it was printed; nobody flushes.
    """
    return [_print(cluster, 10 if quick else 40) for cluster in ENGINES]


def _print(cluster: Cluster, count: int) -> Row:
    cell = _PRINT.format(environment=cluster.environment, count=count)
    with with_cluster(cluster) as notebook:
        streams = notebook.run(cell).streams
    delays = [arrived - float(line) for arrived, text in streams for line in text.split()]
    assert len(delays) == count
    met = median(delays) <= 0.050
    name = f"{cluster.engine}: print in a task to text in the notebook"
    return Row(name, spread(delays), "", None, "<= 50 ms", met)


def flood(quick: bool) -> list[Row]:
    """Print a million lines in the background, and see how the notebook fares; on each engine.

    Meanwhile plain cells run: the slowest round trip counts. The kernel's own memory is watched,
    and in the end the run's log must hold every line.
    """
    del quick
    return [row for cluster in ENGINES for row in _flood(cluster)]


def _flood(cluster: Cluster) -> list[Row]:
    with with_cluster(cluster) as notebook:
        with Peak(lambda: [notebook.pid]) as memory:
            trips, seconds = _print_all(notebook, _FLOOD.format(environment=cluster.environment))
        wrong = notebook.run(_CHECK).value
    worst = max(trips)
    what = f"{cluster.engine}: a million lines in {duration(seconds)}"
    times = f"{duration(worst)} (median {duration(median(trips))})"
    return [
        Row(f"{what}: slowest plain cell", times, "", None, "<= 0.5 s", worst <= 0.5),
        Row(
            f"{what}: growth of the kernel",
            size(memory.growth),
            target="<= 64 MiB",
            met=memory.growth <= 64 * MIB,
        ),
        Row(f"{what}: lines lost or wrong in the log", str(wrong), "", None, "0", wrong == 0),
    ]


def _print_all(notebook: Notebook, cell: str) -> tuple[list[float], float]:
    """Return the seconds that each plain cell took during the flood, and those of the flood."""
    trips = []
    started = time.monotonic()
    notebook.run(cell)
    done = False
    while not done:
        time.sleep(0.02)
        look = notebook.run("flood.done")
        trips.append(look.seconds)
        done = look.value
    notebook.run("flood.result()")
    return trips, time.monotonic() - started
