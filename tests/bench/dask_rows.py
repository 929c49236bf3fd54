"""Dask: how soon a cluster is of use, what it weighs, and how soon it is gone."""

from __future__ import annotations

from tests.bench.cluster_rows import starts, warm_cell, weights
from tests.bench.clusters import LOCAL_CLUSTER, dask
from tests.bench.ending import ends
from tests.bench.rows import Row


def dask_rows(quick: bool) -> list[Row]:
    """Measure 4 workers, against `LocalCluster` with the same."""
    rounds = 1 if quick else 5
    return [
        *starts(dask(4), LOCAL_CLUSTER, rounds, "first result, 4 Dask workers", 0.5),
        warm_cell(dask(4), 15 if quick else 60),
        *weights(dask(4), LOCAL_CLUSTER),
        *ends(dask(4), rounds, shutdown=3),
    ]
