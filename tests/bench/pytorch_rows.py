"""PyTorch: how soon ranks work together, what they weigh, and how soon they are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.memory import held, tree
from tests.bench.notebook import PLAIN, Notebook, in_turns, with_extension
from tests.bench.processes import TOKEN, end, folders_of, new_token, until_gone, with_token
from tests.bench.rows import GIB, Row, duration, size, spread

_DECLARE = """import flyte
from flyteplugins.pytorch import Elastic
{name} = flyte.TaskEnvironment(
    name="{name}", plugin_config=Elastic(nnodes=1, nproc_per_node={ranks})
)"""
_SCRIPT = """import torch
import torch.distributed as dist
dist.init_process_group()
total = torch.ones(1)
dist.all_reduce(total)
assert float(total) == 2
"""
_OURS = f"%%flyte_task two -o total\n{_SCRIPT}"
_WAIT = "import time\nprint('in', flush=True)\ntime.sleep(600)\n"
_LIMIT = 30.0
_LEAST = 6
"""Processes while ranks work: kernel, supervisor, zygote, node, driver, agent and two ranks, less
those that a platform has not."""


def pytorch(quick: bool) -> list[Row]:
    """Measure two ranks on one node, against `torchrun` with the same script, as a process."""
    return [*_start(quick), *_warm(quick), *_values(quick), *_weight(), *_ending(quick)]


def _declaration(name: str = "two", ranks: int = 2) -> str:
    return _DECLARE.format(name=name, ranks=ranks)


# -- start ----------------------------------------------------------------------------------------


def _start(quick: bool) -> list[Row]:
    """Time the first and the second cell that all-reduce, in fresh kernels and in turns."""
    declared, first, second, peer = [], [], [], []
    with _script(_SCRIPT) as script:
        for _ in range(1 if quick else 3):
            with with_extension() as notebook:
                declared.append(notebook.run(_declaration()).seconds)
                first.append(notebook.run(_OURS).seconds)
                second += [notebook.run(_OURS).seconds for _ in range(5)]
            started = time.perf_counter()
            subprocess.run([*_torchrun(), str(script)], check=True, capture_output=True)
            peer.append(time.perf_counter() - started)
    both = [sum(pair) for pair in zip(declared, first, strict=True)]
    name = "PyTorch: {} to an all-reduce of 2 ranks"
    return [
        _against(name.format("declared"), first, peer, 0.7),
        _against(name.format("second cell"), second, peer, 0.05),
        Row(
            name.format("the cells that import and declare, and the first,"),
            spread(both),
            f"{spread(peer)} (torchrun)",
            median(both) / median(peer),
        ),
    ]


def _torchrun() -> list[str]:
    return [str(Path(sysconfig.get_path("scripts")) / "torchrun"), "--nproc-per-node", "2"]


@contextlib.contextmanager
def _script(text: str) -> Iterator[Path]:
    path = Path(os.environ["TMPDIR"]) / "script.py"
    path.write_text(text)
    yield path
    path.unlink()


def _against(name: str, ours: list[float], peer: list[float], target: float) -> Row:
    ratio = median(ours) / median(peer)
    their = f"{spread(peer)} (torchrun)"
    return Row(name, spread(ours), their, ratio, f"<= {target:g}", ratio <= target)


# -- warm -----------------------------------------------------------------------------------------


def _warm(quick: bool) -> list[Row]:
    """Time a cell that does nothing, beyond a plain cell, beside one of the plain engine."""
    cells = {
        "here": "1 + 1",
        "plain": "%%flyte_task plain_env\npass",
        "two": "%%flyte_task two\npass",
    }
    with with_extension() as notebook:
        notebook.run(f"{PLAIN}\n{_declaration()}")
        times = {
            name: median(t) for name, t in in_turns(notebook, cells, 8 if quick else 30).items()
        }
    ours, plain = times["two"] - times["here"], times["plain"] - times["here"]
    return [
        Row(
            "PyTorch: warm no-op cell in 2 ranks",
            duration(ours),
            f"{duration(plain)} (plain engine)",
            None,
            "<= 0.3 s",
            ours <= 0.3,
        )
    ]


# -- values ---------------------------------------------------------------------------------------


def _values(quick: bool) -> list[Row]:
    """Time 1 GiB of NumPy into two ranks and into one, until each has read every page."""
    times: dict[str, list[float]] = {"one": [], "two": []}
    with with_extension() as notebook:
        notebook.run(f"{_declaration()}\n{_declaration('one', 1)}")
        notebook.run("import numpy\nx = numpy.ones(2**27)")
        for name in times:
            notebook.run(f"%%flyte_task {name}\npass")
        for number in range(2 if quick else 5):
            for name in sorted(times, reverse=bool(number % 2)):
                notebook.run("x += 1")
                _ = b"x" * (4 * GIB)  # memory from the host, before anybody's time is taken
                del _
                cell = f"%%flyte_task {name}\nx[::512].sum()"
                times[name].append(notebook.run(cell).seconds)
    ratio = median(times["two"]) / median(times["one"])
    return [
        Row(
            "PyTorch: 1 GiB NumPy into 2 ranks",
            spread(times["two"]),
            f"{spread(times['one'])} (into 1 rank)",
            ratio,
            "<= 1.2",
            ratio <= 1.2,
        )
    ]


# -- weight ---------------------------------------------------------------------------------------


def _weight() -> list[Row]:
    """Weigh everything beside the kernel, at rest and while 2 ranks wait, against `torchrun`."""
    with with_extension() as notebook:
        notebook.run(_declaration())
        kernel = held([notebook.pid])
        notebook.run(_OURS)
        time.sleep(1)  # until the agent is gone
        rest = _beside(notebook, kernel)
        message = notebook.send(f"%%flyte_task two\n{_SCRIPT}{_WAIT}")
        _await_text(notebook, message)
        work = _beside(notebook, kernel)
        notebook.manager.interrupt_kernel()
    peer = _weigh_peer()
    what = "of 2 ranks that wait"
    return [
        _heavier(f"PyTorch: memory {what}", size(work[0]), size(peer[0]), work[0] / peer[0]),
        _heavier(f"PyTorch: processes {what}", str(work[1]), str(peer[1]), work[1] / peer[1]),
        Row("PyTorch: memory at rest, torch imported", size(rest[0])),
        Row("PyTorch: processes at rest", str(rest[1])),
    ]


def _heavier(name: str, ours: str, peer: str, ratio: float) -> Row:
    return Row(name, ours, f"{peer} (torchrun)", ratio)


def _beside(notebook: Notebook, kernel: int) -> tuple[int, int]:
    pids = [process.pid for process in notebook.processes()]
    return held(pids) - kernel, len(pids) - 1


def _await_text(notebook: Notebook, message: str) -> None:
    while True:
        told = notebook.client.get_iopub_msg(timeout=_LIMIT)
        if told["msg_type"] == "stream" and told["parent_header"].get("msg_id") == message:
            return


def _weigh_peer() -> tuple[int, int]:
    token = new_token()
    with _script(_SCRIPT + _WAIT) as script:
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


# -- the end --------------------------------------------------------------------------------------


def _ending(quick: bool) -> list[Row]:
    """Time the end of a kernel whose ranks work, to no process, no folder and no shared memory."""
    rounds = 1 if quick else 3
    killed = [_time_end(by_force=True) for _ in range(rounds)]
    stopped = [_time_end(by_force=False) for _ in range(rounds)]
    target = "<= 5 s"
    return [
        Row(
            "PyTorch: kernel SIGKILL to nothing", spread(killed), "", None, target, max(killed) <= 5
        ),
        Row("PyTorch: shutdown to nothing", spread(stopped), "", None, target, max(stopped) <= 5),
    ]


def _time_end(*, by_force: bool) -> float:
    before = set(os.listdir("/dev/shm"))
    with with_extension() as notebook:
        notebook.run(_declaration())
        _await_text(notebook, notebook.send(f"%%flyte_task two\n{_SCRIPT}{_WAIT}"))
        assert len(notebook.processes()) >= _LEAST
        kernel = notebook.pid

        def left() -> list[object]:
            segments = set(os.listdir("/dev/shm")) - before
            return [*with_token(notebook.token), *folders_of(kernel), *segments]

        if by_force:
            os.kill(kernel, signal.SIGKILL)
        else:
            notebook.manager.interrupt_kernel()  # a kernel that is busy hears nothing else
            notebook.manager.request_shutdown()
        return until_gone(left, _LIMIT)
