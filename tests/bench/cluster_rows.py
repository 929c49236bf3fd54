"""What every engine's cluster is measured by: its start, weight, and the cost of a warm cell."""

from __future__ import annotations

from statistics import median

from tests.bench.clusters import PLAIN, Cluster, Peer
from tests.bench.memory import held, tree
from tests.bench.notebook import Notebook, in_turns, with_extension
from tests.bench.rows import MIB, Row, duration, size, spread


def starts(cluster: Cluster, peer: Peer, rounds: int, what: str, target: float) -> list[Row]:
    """Time a cluster from nothing to a first result, against the peer's, in fresh kernels in turns.

    The first row begins when the environment has been declared, and when the peer has been
    imported. The second counts the cells that do that too, run without a pause.
    """
    ours, peers = [], []
    for _ in range(rounds):
        with with_extension() as notebook:
            ours.append([notebook.run(cell).seconds for cell in (cluster.declare, cluster.use)])
        with Notebook() as notebook:
            peers.append([notebook.run(cell).seconds for cell in (peer.imports, peer.use)])
            notebook.run(peer.stop)
    promised = _against(
        f"declared to {what}", [run[-1] for run in ours], [run[-1] for run in peers], peer, target
    )
    whole = _against(
        f"declared to {what}, imports counted", [*map(sum, ours)], [*map(sum, peers)], peer
    )
    return [promised, whole]


def _against(
    name: str, ours: list[float], theirs: list[float], peer: Peer, target: float | None = None
) -> Row:
    ratio = median(ours) / median(theirs)
    text = f"{spread(theirs)} ({peer.name})"
    if target is None:
        return Row(name, spread(ours), text, ratio)
    return Row(name, spread(ours), text, ratio, f"<= {target:.2f}", ratio <= target)


def weights(cluster: Cluster, peer: Peer) -> list[Row]:
    """Weigh a cluster that has done a little, against the peer's.

    What the kernel and its descendants hold beyond what the bare kernel held: parts of a peer may
    live in the kernel. Processes are those beside the kernel.
    """
    ours = _weigh(["%load_ext flyte_jupyter", cluster.declare, cluster.use])
    theirs = _weigh([peer.imports, peer.use], peer.stop)
    return heavier(f"{cluster.engine}, {cluster.shape}", ours, theirs, peer.name)


def _weigh(cells: list[str], stop: str = "") -> tuple[int, int]:
    with Notebook() as notebook:
        before = held([notebook.pid])
        for cell in cells:
            notebook.run(cell)
        pids = tree(notebook.pid)
        weight = held(pids) - before
        if stop:
            notebook.run(stop)
    return weight, len(pids) - 1


def heavier(what: str, ours: tuple[int, int], theirs: tuple[int, int], peer: str) -> list[Row]:
    """Compare two clusters by their bytes of memory and their number of processes.

    What ours has beyond the peer's, or less, is in parentheses.
    """
    memory, count = (ours[n] / theirs[n] for n in (0, 1))
    more = f"{(ours[0] - theirs[0]) / MIB:+.0f} MiB", f"{ours[1] - theirs[1]:+d}"
    return [
        Row(
            f"{what}: memory", f"{size(ours[0])} ({more[0]})", f"{size(theirs[0])} ({peer})", memory
        ),
        Row(f"{what}: processes", f"{ours[1]} ({more[1]})", f"{theirs[1]} ({peer})", count),
    ]


def warm_cell(cluster: Cluster, rounds: int, target: float | None = None) -> Row:
    """Time a cell that does nothing, beyond a plain cell, beside one of the plain engine.

    Parameters
    ----------
    cluster
        What the cell runs on.
    rounds
        How often.
    target
        Most seconds that it may take; None for 2 ms more than the plain engine's.
    """
    cells = {
        "here": "pass",
        "plain": f"%%flyte_task {PLAIN.environment}\npass",
        "ours": f"%%flyte_task {cluster.environment}\npass",
    }
    with with_extension() as notebook:
        notebook.run(f"{PLAIN.declare}\n{cluster.declare}")
        notebook.run(cluster.use)
        times = {name: median(found) for name, found in in_turns(notebook, cells, rounds).items()}
    ours, plain = times["ours"] - times["here"], times["plain"] - times["here"]
    return Row(
        f"{cluster.engine}: warm no-op cell beyond a plain one",
        duration(ours),
        f"{duration(plain)} (plain engine)",
        ours / plain,
        f"<= {target} s" if target else "within 2 ms",
        ours <= target if target else ours - plain <= 0.002,
    )
