"""Spark: how soon a cluster is of use, what it weighs, what a cell costs, how soon it is gone."""

from __future__ import annotations

from tests.bench.cluster_rows import starts, warm_cell, weights
from tests.bench.clusters import SPARK, SPARK_STANDALONE
from tests.bench.ending import ends
from tests.bench.rows import Row


def spark_rows(quick: bool) -> list[Row]:
    """Measure two workers, against a standalone cluster of the same shape.

    The peer is a master and workers started through PySpark's own scripts, the workers as soon as
    the master stands, and the session at once after them. Both count when 2 executors are there.
    """
    rounds = 1 if quick else 3
    return [
        *starts(SPARK, SPARK_STANDALONE, rounds, "first count(), 2 Spark workers", 1.15),
        warm_cell(SPARK, 15 if quick else 60),
        *weights(SPARK, SPARK_STANDALONE),
        *ends(SPARK, rounds),
    ]
