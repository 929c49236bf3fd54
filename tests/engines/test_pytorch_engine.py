"""What a PyTorch cluster is made of, as described before anything starts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from flyteplugins.pytorch import Elastic
from flyteplugins.pytorch.task import RunPolicy

from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.engines.pytorch.engine import PytorchEngine, nodes
from flyte_jupyter.errors import EngineError, UsageError

ENGINE = PytorchEngine()


def elastic(nnodes=1, nproc_per_node=2, **more):
    return Elastic(nnodes=nnodes, nproc_per_node=nproc_per_node, **more)


def test_a_cluster_has_a_node_for_each_of_the_most_that_are_asked_for():
    (node,) = ENGINE.describe(elastic(2), None).roles
    assert (node.name, node.replicas, node.vital, node.scalable) == ("node", 2, False, False)
    (node,) = ENGINE.describe(elastic("1:3"), None).roles
    assert (node.replicas, node.scalable) == (3, True)


def test_a_description_crosses_a_process_unchanged():
    spec = ENGINE.describe(elastic("1:2"), None)
    assert ClusterSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


def test_what_changes_nothing_of_the_nodes_costs_no_new_cluster():
    one = ENGINE.describe(elastic(nproc_per_node=2), None)
    assert ENGINE.describe(elastic(nproc_per_node=4, max_restarts=0), None) == one
    assert ENGINE.describe(elastic(nnodes=2), None) != one


@pytest.mark.parametrize(
    ("nnodes", "expected"), [(1, (1, 1)), ("2", (2, 2)), ("1:2", (1, 2)), (" 2 : 4 ", (2, 4))]
)
def test_numbers_and_ranges_of_nodes_are_read(nnodes, expected):
    assert nodes(nnodes) == expected


@pytest.mark.parametrize("nnodes", [0, -1, "2:1", "0:2", "two", "", "1:2:3", 1.5, True, None])
def test_nodes_that_cannot_be_are_refused(nnodes):
    with pytest.raises(EngineError, match="nnodes must be"):
        ENGINE.describe(elastic(nnodes), None)


@pytest.mark.parametrize("nproc", [0, -1, "auto", "2", 1.5, True, None])
def test_ranks_that_cannot_be_are_refused(nproc):
    with pytest.raises(EngineError, match=r"at least one rank.*nproc_per_node"):
        ENGINE.describe(elastic(nproc_per_node=nproc), None)


def test_more_ranks_than_any_machine_takes_are_refused():
    with pytest.raises(EngineError, match=r"1000 ranks.*CPUs"):
        ENGINE.describe(elastic(nnodes=2, nproc_per_node=500), None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rdzv_backend": "etcd"}, "c10d alone: rdzv_backend='etcd'"),
        ({"rdzv_backend": "etcd-v2"}, "c10d alone"),
        ({"max_restarts": -1}, "max_restarts must be"),
        ({"monitor_interval": 0}, "monitor_interval must be"),
        ({"monitor_interval": "3"}, "monitor_interval must be"),
        ({"run_policy": RunPolicy(active_deadline_seconds=0)}, "must be above 0"),
    ],
)
def test_other_values_that_cannot_be_are_refused_in_one_line(more, said):
    with pytest.raises(EngineError, match=said) as caught:
        ENGINE.describe(elastic(**more), None)
    assert "\n" not in str(caught.value)


def test_torch_that_is_missing_is_named_with_what_installs_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    with pytest.raises(EngineError, match=r"'torch'.*flyte-jupyter\[pytorch\]"):
        ENGINE.describe(elastic(), None)


def test_the_description_imports_no_torch():
    code = (
        "import sys\n"
        "from flyte_jupyter.engines.pytorch.engine import PytorchEngine\n"
        "PytorchEngine()\n"
        "assert 'torch' not in sys.modules and 'flyteplugins.pytorch' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_one_machine_cannot_have_is_named():
    policy = RunPolicy(
        clean_pod_policy="all",
        ttl_seconds_after_finished=1,
        backoff_limit=2,
        active_deadline_seconds=3,
    )
    config = elastic(run_policy=policy, rdzv_configs={"timeout": 5, "store_type": "tcp"})
    assert set(ENGINE.ignored(config)) == {
        "run_policy.clean_pod_policy",
        "run_policy.ttl_seconds_after_finished",
        "run_policy.backoff_limit",
        "rdzv_configs.store_type",
    }
    assert ENGINE.ignored(elastic()) == {}
    assert ENGINE.links({}) == {}


def test_restarts_that_somebody_chose_are_said_not_to_follow_exceptions():
    (said,) = ENGINE.remarks(elastic(max_restarts=5))
    assert "after an exception none starts again" in said
    assert ENGINE.remarks(elastic()) == ENGINE.remarks(elastic(max_restarts=0)) == []


def test_options_of_the_magic_make_a_config():
    config = ENGINE.configure({"nproc": "2", "nnodes": "1:2", "max-restarts": "0"})
    assert (config.nproc_per_node, config.nnodes, config.max_restarts) == (2, "1:2", 0)
    assert ENGINE.configure({"workers": "2"}).nnodes == 2
    assert ENGINE.configure({}).nproc_per_node == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nproc": "0"}, "--nproc takes"),
        ({"nproc": "many"}, "--nproc takes"),
        ({"nnodes": "2:1"}, "--nnodes takes"),
        ({"max-restarts": "-1"}, "--max-restarts takes"),
        ({"gpus": "2"}, "no option --gpus"),
    ],
)
def test_options_that_make_none_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        ENGINE.configure(options)
