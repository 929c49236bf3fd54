"""Ray: how soon a cluster is of use, what it weighs, what a cell costs, how soon it is gone."""

from __future__ import annotations

from tests.bench.cluster_rows import starts, warm_cell, weights
from tests.bench.clusters import RAY, RAY_CLUSTER
from tests.bench.ending import ends
from tests.bench.rows import Row


def ray_rows(quick: bool) -> list[Row]:
    """Measure a head and two nodes, against `ray.cluster_utils.Cluster` with the same."""
    rounds = 1 if quick else 3
    return [
        *starts(RAY, RAY_CLUSTER, rounds, "first ray.get, head and 2 nodes", 1.0),
        warm_cell(RAY, 15 if quick else 60),
        *weights(RAY, RAY_CLUSTER),
        *ends(RAY, rounds),
    ]
