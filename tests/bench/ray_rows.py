"""Ray: how soon a cluster is of use, what it weighs, and how soon it is gone."""

from __future__ import annotations

import os
from statistics import median

from tests.bench.ending import kill, seconds_to_nothing, shut_down
from tests.bench.memory import held, tree
from tests.bench.notebook import PLAIN, Notebook, in_turns, with_extension
from tests.bench.processes import ownerless_segments
from tests.bench.rows import Row, duration, size, spread

_DECLARE = """import flyte
from flyteplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig
def node(cpus):
    return {"num-cpus": cpus, "object-store-memory": str(150 * 2**20)}
ray_env = flyte.TaskEnvironment(name="ray_env", plugin_config=RayJobConfig(
    head_node_config=HeadNodeConfig(ray_start_params=node("1")),
    worker_node_config=[
        WorkerNodeConfig(group_name="workers", replicas=2, ray_start_params=node("1"))],
))"""
_WORK = """@ray.remote
def work(x):
    return x * x
total = sum(ray.get([work.remote(x) for x in range(4)]))
"""
_OURS = f"%%flyte_task ray_env -o total\nimport ray\n{_WORK}"
_PEER_IMPORT = "import ray\nfrom ray.cluster_utils import Cluster"
_PEER = f"""cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address)
{_WORK}"""
_STOP_PEER = "ray.shutdown()\ncluster.shutdown()"
_LEAST = 12
"""Processes of a head and two nodes, with what is ours."""


def ray(quick: bool) -> list[Row]:
    """Measure a head and two nodes, against `ray.cluster_utils.Cluster` with the same."""
    return [*_start(quick), *_warm(quick), *_weight(), *_ending(quick)]


def _start(quick: bool) -> list[Row]:
    """Time both from declared, or imported, to the first `ray.get`, in fresh kernels in turns."""
    ours, whole, peer, peer_whole = [], [], [], []
    for _ in range(1 if quick else 3):
        with with_extension() as notebook:
            declared = notebook.run(_DECLARE).seconds
            ours.append(notebook.run(_OURS).seconds)
            whole.append(declared + ours[-1])
        with Notebook() as notebook:
            imported = notebook.run(_PEER_IMPORT).seconds
            peer.append(notebook.run(_PEER).seconds)
            peer_whole.append(imported + peer[-1])
            notebook.run(_STOP_PEER)
    name = "Ray: declared to first ray.get, head and 2 nodes"
    return [_against(name, ours, peer), _against(f"{name}, imports counted", whole, peer_whole)]


def _against(name: str, ours: list[float], peer: list[float]) -> Row:
    ratio = median(ours) / median(peer)
    their = f"{spread(peer)} (cluster_utils)"
    return Row(name, spread(ours), their, ratio, "<= 1.0", ratio <= 1.0)


def _warm(quick: bool) -> list[Row]:
    """Time a cell that does nothing, beyond a plain cell, beside one of the plain engine."""
    cells = {
        "here": "pass",
        "plain": "%%flyte_task plain_env\npass",
        "ray": "%%flyte_task ray_env\npass",
    }
    with with_extension() as notebook:
        notebook.run(f"{PLAIN}\n{_DECLARE}")
        times = in_turns(notebook, cells, 15 if quick else 60)
    here, plain, ours = (median(times[name]) for name in ("here", "plain", "ray"))
    return [
        Row(
            "Ray: warm no-op cell beyond a plain one",
            duration(ours - here),
            f"{duration(plain - here)} (plain engine)",
            (ours - here) / (plain - here),
            "within 2 ms",
            ours - plain <= 0.002,
        )
    ]


def _weight() -> list[Row]:
    """Weigh what a kernel and its descendants hold beyond the bare kernel."""
    found = []
    for prepare, cells in (
        ("%load_ext flyte_jupyter", (_DECLARE, _OURS)),
        ("pass", (_PEER_IMPORT, _PEER)),
    ):
        with Notebook() as notebook:
            before = held([notebook.pid])
            for cell in (prepare, *cells):
                notebook.run(cell)
            pids = tree(notebook.pid)
            found.append((held(pids) - before, len(pids) - 1))
            if prepare == "pass":
                notebook.run(_STOP_PEER)
    (ours, count), (peer, peer_count) = found
    return [
        Row(
            "Ray: memory of a head and 2 nodes",
            size(ours),
            f"{size(peer)} (cluster_utils)",
            ours / peer,
        ),
        Row(
            "Ray: processes of a head and 2 nodes",
            str(count),
            f"{peer_count} (cluster_utils)",
            count / peer_count,
        ),
    ]


def _ending(quick: bool) -> list[Row]:
    rounds = 1 if quick else 3
    segments = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    rows = []
    for name, end in (("kernel SIGKILL", kill), ("clean shutdown", shut_down)):
        times = [
            seconds_to_nothing(end, (_DECLARE, _OURS), _LEAST, lambda: ownerless_segments(segments))
            for _ in range(rounds)
        ]
        met = max(times) <= 5
        rows.append(Row(f"Ray: {name} to nothing left", spread(times), "", None, "<= 5 s", met))
    return rows
