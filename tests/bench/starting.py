"""How soon a cluster is of use, and what it weighs."""

from __future__ import annotations

from statistics import median

from tests.bench.memory import held, tree
from tests.bench.notebook import Notebook, dask_environment, with_extension
from tests.bench.rows import Row, size, spread

_WORK = "client.wait_for_workers(4)\ntotal = sum(client.gather(client.map(abs, range(100))))"
_OURS = f"""%%flyte_task dask_env -o total
from distributed import Client
client = Client()
{_WORK}
"""
_PEER_IMPORT = "from distributed import Client, LocalCluster"
_PEER = f"""cluster = LocalCluster(n_workers=4, processes=True, threads_per_worker=1)
client = Client(cluster)
{_WORK}
"""


def _start_ours(notebook: Notebook) -> tuple[float, float]:
    """Return the seconds of the cell that declares, and of the one that runs."""
    return notebook.run(dask_environment(4)).seconds, notebook.run(_OURS).seconds


def _start_peer(notebook: Notebook) -> tuple[float, float]:
    """Return the seconds of the cell that imports, and of the one that runs."""
    return notebook.run(_PEER_IMPORT).seconds, notebook.run(_PEER).seconds


def _stop_peer(notebook: Notebook) -> None:
    notebook.run("client.close(); cluster.close()")


def start(quick: bool) -> list[Row]:
    """Time a Dask cluster of 4 workers from nothing to a first result, against `LocalCluster`.

    In fresh kernels, in turns; both wait for 4 workers and do the same work. The first row begins
    when the environment has been declared, and when the peer has been imported. The second counts
    the cells that do that too, run without a pause.
    """
    ours, peer = [], []
    for _ in range(1 if quick else 5):
        with with_extension() as notebook:
            ours.append(_start_ours(notebook))
        with Notebook() as notebook:
            peer.append(_start_peer(notebook))
            _stop_peer(notebook)
    name = "declared to first result, 4 Dask workers"
    return [
        _compare(name, [run for _, run in ours], [run for _, run in peer]),
        _compare(f"{name}, imports counted", [*map(sum, ours)], [*map(sum, peer)]),
    ]


def _compare(name: str, ours: list[float], peer: list[float]) -> Row:
    ratio = median(ours) / median(peer)
    their = f"{spread(peer)} (LocalCluster)"
    return Row(name, spread(ours), their, ratio, "<= 0.50", ratio <= 0.5)


def overhead(quick: bool) -> list[Row]:
    """Weigh a Dask cluster of 4 workers that has done a little, against `LocalCluster`.

    What the kernel and its descendants hold beyond what the bare kernel held: the peer's scheduler
    and nannies live in the kernel. Processes are those beside the kernel.
    """
    del quick
    with Notebook() as notebook:
        before = held([notebook.pid])
        notebook.run("%load_ext flyte_jupyter")
        _start_ours(notebook)
        ours = _weight(notebook, before)
    with Notebook() as notebook:
        before = held([notebook.pid])
        _start_peer(notebook)
        peer = _weight(notebook, before)
        _stop_peer(notebook)
    return [
        Row(
            "memory of a cluster of 4 Dask workers",
            size(ours[0]),
            f"{size(peer[0])} (LocalCluster)",
            ours[0] / peer[0],
        ),
        Row(
            "processes of a cluster of 4 Dask workers",
            str(ours[1]),
            f"{peer[1]} (LocalCluster)",
            ours[1] / peer[1],
        ),
    ]


def _weight(notebook: Notebook, before: int) -> tuple[int, int]:
    pids = tree(notebook.pid)
    return held(pids) - before, len(pids) - 1
