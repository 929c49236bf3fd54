"""How fast a large array travels, and how much memory it takes on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from tests.bench.clusters import PLAIN
from tests.bench.memory import Peak, tree
from tests.bench.notebook import Notebook, ipyparallel_engine, with_extension
from tests.bench.rows import GIB, Row, duration

_MAKE = "import numpy\nx = numpy.ones(2**27)"
_CHANGE = "x += 1"
_IN = "%%flyte_task plain_env\nx[::512].sum()"
_KEEP = "%%flyte_task plain_env -r kept\nimport numpy\nkept = numpy.full(2**27, {number})"
_OUT = "%%flyte_task plain_env -o y\ny = kept"
_READ = "y[::512].sum()"
_PUSH = 'view.push({"x": x}, block=True)\nview.execute("x[::512].sum()", block=True)'
_CHANGE_THERE = 'view.execute("x += 1", block=True)'
_PULL = 'y = view.pull("x", block=True)'


def transfer(quick: bool) -> list[Row]:
    """Time 1 GiB of NumPy into a task and out of one, against ipyparallel's push and pull.

    Both end when the receiver has read from every page of the array, for ours is mapped there and
    not copied. Every array sent is changed where it lies just before, but for one row's. Peak
    memory is sampled in a run of its own, over kernel, cluster and shared memory; what was there
    before does not count: the copy that the receiver ends up with is 1 of the data.

    Memory that a virtual machine frees goes back to its host, and what is then first touched takes
    seconds a GiB: more than the transfer, and by chance. So before each of them as much as any
    needs is taken from the host, and a moment left to what the system still does after it is freed:
    it had taken a fifth of the next transfer's time.
    """
    rounds = 1 if quick else 5
    with with_extension() as notebook:
        notebook.run(f"{PLAIN.declare}\n{_MAKE}")
        notebook.run("%%flyte_task plain_env\npass")
        with ipyparallel_engine(notebook):
            times: dict[str, list[float]] = {}
            for number in range(rounds):
                for name, seconds in (*_ours(notebook, number), *_peers(notebook)):
                    times.setdefault(name, []).append(seconds)
    found = {name: median(values) for name, values in times.items()}
    return [
        _against("1 GiB NumPy in", found["in"], found["push"], "push"),
        _against("1 GiB NumPy out", found["out"], found["pull"], "pull"),
        Row("1 GiB NumPy in again, unchanged", duration(found["again"])),
        *_memory(),
    ]


def _ours(notebook: Notebook, number: int) -> Iterator[tuple[str, float]]:
    yield "in", _timed(notebook, _CHANGE, _IN)
    yield "again", _timed(notebook, "", _IN)
    yield "out", _timed(notebook, _KEEP.format(number=number), _OUT, _READ)
    notebook.run("del y, kept")


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


def _memory() -> list[Row]:
    with with_extension() as notebook:
        notebook.run(f"{PLAIN.declare}\n{_MAKE}")
        notebook.run("%%flyte_task plain_env\npass")
        ours_in = _growth(notebook, _IN)
    with with_extension() as notebook:
        notebook.run(PLAIN.declare)
        notebook.run(_KEEP.format(number=1))
        ours_out = _growth(notebook, _OUT, _READ)
    with Notebook() as notebook, ipyparallel_engine(notebook):
        notebook.run(_MAKE)
        push = _growth(notebook, _PUSH)
        pull = _growth(notebook, _PULL, _READ)
    return [
        _against_memory("peak memory of 1 GiB in, of the data", ours_in, push, "push"),
        _against_memory("peak memory of 1 GiB out, of the data", ours_out, pull, "pull"),
    ]


def _growth(notebook: Notebook, *cells: str) -> float:
    """Return the peak of memory while cells run, in parts of the data."""
    with Peak(lambda: tree(notebook.pid)) as memory:
        for cell in cells:
            notebook.run(cell)
    return memory.growth / GIB


def _against_memory(name: str, ours: float, peer: float, what: str) -> Row:
    their = f"{peer:.2f} x ({what})"
    return Row(name, f"{ours:.2f} x", their, ours / peer, "<= 1.1 x", ours <= 1.1)
