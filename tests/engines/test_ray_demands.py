"""Telling what nodes can never give from what is only taken at the moment."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from flyte_jupyter.engines.ray.demands import Demand, unsatisfiable

NODES = [{"CPU": 2.0, "memory": 8.0}, {"CPU": 1.0, "memory": 8.0, "special": 1.0}]


@pytest.mark.parametrize(
    "demand",
    [
        Demand(({"CPU": 2.0},)),
        Demand(({"special": 0.5, "CPU": 1.0},)),
        Demand(({"CPU": 2.0}, {"CPU": 1.0}), "PACK"),
        Demand(({"CPU": 1.0}, {"CPU": 1.0}), "STRICT_PACK"),
    ],
)
def test_what_nodes_have_is_waited_for_in_silence(demand):
    assert unsatisfiable(NODES, [demand]) == set()


@pytest.mark.parametrize(
    ("demand", "there"),
    [
        (Demand(({"CPU": 3.0},)), "{'CPU': 2}"),
        (Demand(({"GPU": 0.5},)), "{'GPU': 0}"),
        (Demand(({"CPU": 2.0, "special": 1.0},)), "{'CPU': 2, 'special': 1}"),
        (Demand(({"CPU": 1.0}, {"CPU": 4.0}), "SPREAD"), "{'CPU': 2}"),
        (Demand(({"CPU": 2.0}, {"CPU": 2.0}), "PACK"), "{'CPU': 3}"),
        (Demand(({"CPU": 2.0}, {"CPU": 1.0}), "STRICT_PACK"), "{'CPU': 2}"),
    ],
)
def test_what_no_node_has_is_one_line(demand, there):
    (line,) = unsatisfiable(NODES, [demand])
    assert f"the most is {there}" in line
    assert line.count("\n") == 1
