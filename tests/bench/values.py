"""How fast a large array travels, and how much memory it takes on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from tests.bench.clusters import ENGINES, Cluster
from tests.bench.memory import Peak, tree
from tests.bench.notebook import Notebook, ipyparallel_engine, with_cluster
from tests.bench.rows import GIB, Row, duration

_MAKE = "import numpy\nx = numpy.ones(2**27)"
_CHANGE = "x += 1"
_IN = "%%flyte_task {environment}\nx[::512].sum()"
_KEEP = (
    "%%flyte_task {environment} -r kept\nimport numpy\nkept = numpy.full(2**27, float({number}))"
)
_OUT = "%%flyte_task {environment} -o y\ny = kept"
_READ = "y[::512].sum()"
_PUSH = 'view.push({"x": x}, block=True)\nview.execute("x[::512].sum()", block=True)'
_CHANGE_THERE = 'view.execute("x += 1", block=True)'
_PULL = 'y = view.pull("x", block=True)'


def transfer(quick: bool) -> list[Row]:
    """Time 1 GiB of NumPy into a task and out of one, against ipyparallel's push and pull.

    On each engine, in turns with the peer. Both end when the receiver has read from every page of
    the array, for ours is mapped there and not copied. Every array sent is changed where it lies
    just before, but for one row's. Peak memory is sampled in a run of its own, over kernel, cluster
    and shared memory; what was there before does not count: the copy that the receiver ends up with
    is 1 of the data.

    Memory that a virtual machine frees goes back to its host, and what is then first touched takes
    seconds a GiB: more than the transfer, and by chance. So before each of them as much as any
    needs is taken from the host, and a moment left to what the system still does after it is freed:
    it had taken a fifth of the next transfer's time.
    """
    rows = [row for cluster in ENGINES for row in _times(cluster, 1 if quick else 5)]
    push, pull = _peers_memory()
    return rows + [row for cluster in ENGINES for row in _memory(cluster, push, pull)]


def _times(cluster: Cluster, rounds: int) -> list[Row]:
    with with_cluster(cluster) as notebook, ipyparallel_engine(notebook):
        notebook.run(_MAKE)
        times: dict[str, list[float]] = {}
        for number in range(rounds):
            for name, seconds in (*_ours(notebook, cluster, number), *_peers(notebook)):
                times.setdefault(name, []).append(seconds)
    found = {name: median(values) for name, values in times.items()}
    engine = cluster.engine
    return [
        _against(f"{engine}: 1 GiB NumPy in", found["in"], found["push"], "push"),
        _against(f"{engine}: 1 GiB NumPy out", found["out"], found["pull"], "pull"),
        Row(f"{engine}: 1 GiB NumPy in again, unchanged", duration(found["again"])),
    ]


def _ours(notebook: Notebook, cluster: Cluster, number: int) -> Iterator[tuple[str, float]]:
    goes_in, keep, out = _cells(cluster, number)
    yield "in", _timed(notebook, _CHANGE, goes_in)
    yield "again", _timed(notebook, "", goes_in)
    yield "out", _timed(notebook, keep, out, _READ)
    notebook.run("del y, kept")


def _cells(cluster: Cluster, number: int) -> list[str]:
    """Return the cells that take the array in, that keep one there, and that bring that one."""
    return [
        cell.format(environment=cluster.environment, number=number) for cell in (_IN, _KEEP, _OUT)
    ]


def _peers(notebook: Notebook) -> Iterator[tuple[str, float]]:
    yield "push", _timed(notebook, _CHANGE, _PUSH)
    yield "pull", _timed(notebook, _CHANGE_THERE, _PULL, _READ)
    notebook.run("del y; client.purge_everything()")


def _timed(notebook: Notebook, prepare: str, *cells: str) -> float:
    _ = b"x" * (4 * GIB)
    del _
    notebook.run(prepare)
    time.sleep(0.5)
    return sum(notebook.run(cell).seconds for cell in cells)


def _against(name: str, ours: float, peer: float, what: str) -> Row:
    ratio = ours / peer
    their = f"{duration(peer)} ({what})"
    return Row(name, duration(ours), their, ratio, "<= 0.20 (5 x faster)", ratio <= 0.2)


def _memory(cluster: Cluster, push: float, pull: float) -> list[Row]:
    goes_in, keep, out = _cells(cluster, 1)
    name = f"{cluster.engine}: peak memory of 1 GiB {{}}, of the data"
    with with_cluster(cluster) as notebook:
        notebook.run(_MAKE)
        grown_in = _growth(notebook, goes_in)
    with with_cluster(cluster) as notebook:
        notebook.run(keep)
        grown_out = _growth(notebook, out, _READ)
    return [
        _against_memory(name.format("in"), grown_in, push, "push"),
        _against_memory(name.format("out"), grown_out, pull, "pull"),
    ]


def _peers_memory() -> tuple[float, float]:
    with Notebook() as notebook, ipyparallel_engine(notebook):
        notebook.run(_MAKE)
        return _growth(notebook, _PUSH), _growth(notebook, _PULL, _READ)


def _growth(notebook: Notebook, *cells: str) -> float:
    """Return the peak of memory while cells run, in parts of the data."""
    with Peak(lambda: tree(notebook.pid)) as memory:
        for cell in cells:
            notebook.run(cell)
    return memory.growth / GIB


def _against_memory(name: str, ours: float, peer: float, what: str) -> Row:
    their = f"{peer:.2f} x ({what})"
    return Row(name, f"{ours:.2f} x", their, ours / peer, "<= 1.1 x", ours <= 1.1)
