"""PyTorch: how soon ranks work together, what they weigh, and how soon they are gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.cluster_rows import heavier, warm_cell
from tests.bench.clusters import ALL_REDUCE, FOR_EVER, pytorch
from tests.bench.ending import ends
from tests.bench.memory import held, tree
from tests.bench.notebook import Notebook, with_extension
from tests.bench.processes import TOKEN, end, new_token, with_token
from tests.bench.rows import GIB, Row, size, spread

_PEER = "torchrun"


def pytorch_rows(quick: bool) -> list[Row]:
    """Measure two ranks on one node, against `torchrun` with the same script, as a process."""
    return [
        *_starts(1 if quick else 3),
        warm_cell(pytorch(), 8 if quick else 30, target=0.3),
        _values(2 if quick else 5),
        *_weights(),
        *ends(pytorch(), 1 if quick else 3, busy=True),
    ]


def _starts(rounds: int) -> list[Row]:
    """Time the first and the second cell that all-reduce, in fresh kernels and in turns."""
    declared, first, second, peer = [], [], [], []
    # Without its last line a process that ends by itself aborts, now and then.
    with _script(ALL_REDUCE + "dist.destroy_process_group()\n") as script:
        for _ in range(rounds):
            with with_extension() as notebook:
                declared.append(notebook.run(pytorch().declare).seconds)
                first.append(notebook.run(pytorch().use).seconds)
                second += [notebook.run(pytorch().use).seconds for _ in range(5)]
            started = time.perf_counter()
            subprocess.run([*_torchrun(), str(script)], check=True, capture_output=True)
            peer.append(time.perf_counter() - started)
    both = [sum(pair) for pair in zip(declared, first, strict=True)]
    name = "PyTorch: {} to an all-reduce of 2 ranks"
    return [
        _against(name.format("declared"), first, peer, 0.7),
        _against(name.format("second cell"), second, peer, 0.05),
        _against(name.format("the cells that import and declare, and the first,"), both, peer),
    ]


def _torchrun() -> list[str]:
    return [str(Path(sysconfig.get_path("scripts")) / "torchrun"), "--nproc-per-node", "2"]


@contextlib.contextmanager
def _script(text: str) -> Iterator[Path]:
    path = Path(os.environ["TMPDIR"]) / "script.py"
    path.write_text(text)
    yield path
    path.unlink()


def _against(name: str, ours: list[float], peer: list[float], target: float | None = None) -> Row:
    ratio = median(ours) / median(peer)
    row = (name, spread(ours), f"{spread(peer)} ({_PEER})", ratio)
    return Row(*row) if target is None else Row(*row, f"<= {target:g}", ratio <= target)


def _values(rounds: int) -> Row:
    """Time 1 GiB of NumPy into two ranks and into one, until each has read every page."""
    clusters = {1: pytorch("one", 1), 2: pytorch("two", 2)}
    times: dict[int, list[float]] = {ranks: [] for ranks in clusters}
    with with_extension() as notebook:
        notebook.run("import numpy\nx = numpy.ones(2**27)")
        for cluster in clusters.values():
            notebook.run(cluster.declare)
            notebook.run(cluster.use)
        for number in range(rounds):
            for ranks in sorted(clusters, reverse=bool(number % 2)):
                notebook.run("x += 1")
                _ = b"x" * (4 * GIB)  # memory from the host, before anybody's time is taken
                del _
                cell = f"%%flyte_task {clusters[ranks].environment}\nx[::512].sum()"
                times[ranks].append(notebook.run(cell).seconds)
    ratio = median(times[2]) / median(times[1])
    return Row(
        "PyTorch: 1 GiB NumPy into 2 ranks",
        spread(times[2]),
        f"{spread(times[1])} (into 1 rank)",
        ratio,
        "<= 1.2",
        ratio <= 1.2,
    )


def _weights() -> list[Row]:
    """Weigh everything beside the kernel, at rest and while 2 ranks wait, against `torchrun`."""
    with with_extension() as notebook:
        notebook.run(pytorch().declare)
        kernel = held([notebook.pid])
        notebook.run(pytorch().use)
        time.sleep(1)  # until the agent is gone
        memory, processes = _beside(notebook, kernel)
        message = notebook.send(f"%%flyte_task two\n{ALL_REDUCE}{FOR_EVER}")
        notebook.await_text(message)
        work = _beside(notebook, kernel)
        notebook.manager.interrupt_kernel()
    return [
        *heavier("PyTorch, 2 ranks that wait", work, _weigh_peer(), _PEER),
        Row("PyTorch, at rest, torch imported: memory", size(memory)),
        Row("PyTorch, at rest, torch imported: processes", str(processes)),
    ]


def _beside(notebook: Notebook, kernel: int) -> tuple[int, int]:
    pids = [process.pid for process in notebook.processes()]
    return held(pids) - kernel, len(pids) - 1


def _weigh_peer() -> tuple[int, int]:
    token = new_token()
    with _script(ALL_REDUCE + FOR_EVER) as script:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        peer = subprocess.Popen(
            [*command, str(script)],
            env={**os.environ, TOKEN: token},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert peer.stdout is not None
            for _ in range(2):
                peer.stdout.readline()
            pids = tree(peer.pid)
            return held(pids), len(pids)
        finally:
            end(with_token(token))
            peer.communicate()
