"""What a Ray cluster is made of, as described before anything starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os

import flyte
import psutil
import pytest

pytest.importorskip("ray")

from flyteplugins.ray import (
    AutoscalerOptionsConfig,
    HeadNodeConfig,
    RayJobConfig,
    WorkerNodeConfig,
)

from flyte_jupyter.engines import requirements
from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.engines.ray.engine import RayEngine
from flyte_jupyter.errors import EngineError, UsageError

ENGINE = RayEngine()


def group(name="small", replicas=2, **more):
    return WorkerNodeConfig(group_name=name, replicas=replicas, **more)


def ray(*groups, **more):
    return RayJobConfig(worker_node_config=list(groups), **more)


def test_a_cluster_is_a_vital_head_and_a_role_that_scales_for_each_group():
    spec = ENGINE.describe(ray(group("small", 2), group("large", 1)), None)
    assert [(r.name, r.replicas, r.vital, r.scalable) for r in spec.roles] == [
        ("head", 1, True, False),
        ("small", 2, False, True),
        ("large", 1, False, True),
    ]
    assert spec.role("large").after == ("head",)
    assert spec.role("large").args["group"] == "large"


def test_a_description_crosses_a_process_unchanged():
    config = ray(group(ray_start_params={"resources": '{"a": 1}'}), runtime_env={"env_vars": {}})
    spec = ENGINE.describe(config, None)
    assert ClusterSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


def test_workers_share_the_machine_and_the_head_has_no_cpus_unless_it_is_alone():
    spec = ENGINE.describe(ray(group(replicas=1)), None)
    assert spec.role("small").args["cpus"] == os.cpu_count()
    assert spec.role("head").args["cpus"] == 0
    assert ENGINE.describe(ray(), None).role("head").args["cpus"] == os.cpu_count()
    many = ENGINE.describe(ray(group(replicas=1000)), None)
    assert many.role("small").args["cpus"] == 1


def test_a_group_has_what_it_requests_and_its_start_parameters_go_first():
    asked = flyte.Resources(cpu=3, memory="1Gi", gpu=1)
    args = ENGINE.describe(ray(group(requests=asked)), None).role("small").args
    assert (args["cpus"], args["memory"], args["gpus"]) == (3, 2**30, 1)
    params = {
        "num-cpus": "5",
        "object-store-memory": "200000000",
        "resources": '"{\\"special\\": 2}"',
        "labels": "tier=gold,zone=a",
    }
    told = group(requests=asked, limits=flyte.Resources(cpu=4), ray_start_params=params)
    args = ENGINE.describe(ray(told), None).role("small").args
    assert (args["cpus"], args["store"], args["memory"]) == (5, 200000000, 2**30)
    assert args["custom"] == {"special": 2}
    assert args["labels"] == {"tier": "gold", "zone": "a"}


@pytest.mark.parametrize(("cpu", "told"), [("500m", 1), ("1500m", 2), (2, 2), (2.25, 3)])
def test_parts_of_cpus_are_rounded_up_as_on_kubernetes(cpu, told):
    asked = group(requests=flyte.Resources(cpu=cpu))
    assert ENGINE.describe(ray(asked), None).role("small").args["cpus"] == told


def test_the_head_has_what_its_own_config_asks_for():
    config = ray(group(), head_node_config=HeadNodeConfig(requests=flyte.Resources(cpu=2)))
    assert ENGINE.describe(config, None).role("head").args["cpus"] == 2


def test_only_what_follows_from_the_number_of_nodes_differs_when_that_does():
    few, many = (ENGINE.describe(ray(group(replicas=n)), None) for n in (1, 4))
    assert few.role("head") == many.role("head")
    one, other = few.role("small"), many.role("small")
    differing = {name for name in one.args if one.args[name] != other.args[name]}
    assert differing <= set(one.shares)


def test_a_group_may_begin_with_no_nodes_unless_an_autoscaler_would_add_them():
    spec = ENGINE.describe(ray(group(replicas=0, min_replicas=0, max_replicas=4)), None)
    assert (spec.role("small").replicas, spec.role("small").least) == (0, 0)
    assert spec.role("head").args["cpus"] == spec.role("small").args["cpus"] == os.cpu_count()
    beside = ENGINE.describe(ray(group(replicas=0), group("large", 1)), None)
    assert beside.role("head").args["cpus"] == 0
    scaled = ENGINE.describe(ray(group(replicas=0), enable_autoscaling=True), None)
    assert scaled.role("small").replicas == 1


@pytest.mark.parametrize("replicas", [-1, "2", 1.5, True, None])
def test_a_number_of_replicas_that_is_none_is_refused(replicas):
    with pytest.raises(EngineError, match="replicas of the worker group 'small'"):
        ENGINE.describe(ray(group(replicas=replicas)), None)


@pytest.mark.parametrize("bounds", [(3, None), (None, 1), (3, 1), (-1, 4)])
def test_bounds_that_exclude_the_replicas_are_refused(bounds):
    low, high = bounds
    with pytest.raises(EngineError, match="replicas"):
        ENGINE.describe(ray(group(min_replicas=low, max_replicas=high)), None)


@pytest.mark.parametrize("name", ["", "head", "driver", "a b", "../x", "1st", None, "x" * 41])
def test_a_group_needs_a_name_that_can_be_one(name):
    with pytest.raises(EngineError, match="a name of its own"):
        ENGINE.describe(ray(group(name)), None)


def test_two_groups_of_one_name_are_refused():
    with pytest.raises(EngineError, match=r"two worker groups have the same name.*'small'"):
        ENGINE.describe(ray(group(), group()), None)


@pytest.mark.parametrize(
    "params",
    [
        {"num-cpus": "many"},
        {"num-cpus": "-1"},
        {"resources": "{"},
        {"resources": "[1]"},
        {"resources": '{"a": "b"}'},
        {"labels": "gold"},
    ],
)
def test_a_start_parameter_that_cannot_be_read_is_named(params):
    with pytest.raises(EngineError, match=r"small.*ray_start_params") as caught:
        ENGINE.describe(ray(group(ray_start_params=params)), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seconds", [-1, "5", 1.5, True])
def test_a_time_to_live_that_is_none_is_refused(seconds):
    with pytest.raises(EngineError, match="ttl_seconds_after_finished"):
        ENGINE.describe(ray(group(), ttl_seconds_after_finished=seconds), None)


def test_a_cluster_lingers_only_after_a_job_that_ends_it():
    def linger(**options):
        return ENGINE.describe(ray(group(), **options), None).linger

    assert linger() is None
    assert linger(ttl_seconds_after_finished=5) is None
    assert linger(shutdown_after_job_finishes=True) == 0
    assert linger(shutdown_after_job_finishes=True, ttl_seconds_after_finished=5) == 5


def test_a_cluster_that_is_named_is_used_and_nothing_is_provisioned():
    spec = ENGINE.describe(ray(group(replicas=0), address="10.0.0.1:6379"), None)
    assert spec.roles == ()
    assert spec.prepare == ""
    assert spec.driver_args["address"] == "10.0.0.1:6379"


def test_the_runtime_environment_goes_to_the_job_and_what_does_not_is_named():
    asked = {"env_vars": {"A": "b"}, "pip": ["x"], "uv": {"packages": ["z"]}, "conda": "y"}
    config = ray(group(), runtime_env=asked)
    spec = ENGINE.describe(config, None)
    assert spec.driver_args["runtime_env"] == {"env_vars": {"A": "b"}}
    assert [layer.requirements for layer in spec.packages] == [("x",), ("z",)]
    assert set(ENGINE.ignored(config)) == {"runtime_env.conda"}


def test_ray_installs_on_a_cluster_that_is_not_ours():
    config = ray(group(), runtime_env={"pip": ["x"]}, address="host:6379")
    spec = ENGINE.describe(config, None)
    assert spec.driver_args["runtime_env"] == {"pip": ["x"]}
    assert not spec.packages


@pytest.mark.parametrize(
    "runtime_env",
    ["x", {"pip": [1]}, {"pip": "no-such-file"}, {"env_vars": {"A": 1}}, {"py_modules": [json]}],
)
def test_a_runtime_environment_that_makes_no_sense_is_refused(runtime_env):
    with pytest.raises(EngineError, match="runtime_env"):
        ENGINE.describe(ray(group(), runtime_env=runtime_env), None)


def test_what_the_machine_does_not_have_is_said_in_one_line_each():
    machine = os.cpu_count()
    assert ENGINE.remarks(ray(group(requests=flyte.Resources(cpu=1), replicas=1))) == []
    memory = psutil.virtual_memory().total // 2**30
    asked = flyte.Resources(cpu=machine, memory=f"{memory}Gi", gpu=100)
    cpus, gpus, gibibytes = ENGINE.remarks(ray(group(replicas=2, requests=asked)))
    assert cpus == (
        f"{2 * machine} CPUs are asked for and this machine has {machine}; "
        "Ray schedules by what was asked for"
    )
    assert gpus.startswith("200 GPUs")
    assert gibibytes.startswith(f"{2 * memory}.0 GiB")
    assert ENGINE.remarks(ray(address="10.0.0.1:6379")) == []


def test_what_only_kubernetes_has_is_named():
    config = ray(
        group(pod_template=flyte.PodTemplate(), ray_start_params={"block": "true"}),
        head_node_config=HeadNodeConfig(pod_template=flyte.PodTemplate()),
        enable_autoscaling=True,
        autoscaler_options=AutoscalerOptionsConfig(idle_timeout_seconds=60),
        ttl_seconds_after_finished=60,
    )
    assert set(ENGINE.ignored(config)) == {
        "enable_autoscaling",
        "ttl_seconds_after_finished",
        "head_node_config.pod_template",
        "worker_node_config[small].pod_template",
        "worker_node_config[small].ray_start_params.block",
    }


def test_options_make_the_config():
    made = ENGINE.configure({"workers": "3", "worker-cpu": "2", "group": "cpu"})
    (only,) = made.worker_node_config
    assert (only.group_name, only.replicas, only.requests.cpu) == ("cpu", 3, "2")
    assert ENGINE.configure({}).worker_node_config[0].group_name == "workers"
    assert ENGINE.configure({"address": "h:1"}).address == "h:1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worker": "3"}, "Ray has no option --worker"),
        ({"workers": "0"}, "--workers takes a whole number"),
        ({"workers": "²"}, "--workers takes a whole number"),
        ({"worker-gpu": "one"}, "--worker-gpu takes a whole number"),
        ({"worker-cpu": "lots"}, "cpu must be"),
        ({"group": "head"}, "a name of its own"),
    ],
)
def test_an_option_that_makes_no_sense_is_said_at_once(options, said):
    with pytest.raises((EngineError, UsageError), match=said):
        ENGINE.configure(options)


def test_the_dashboard_is_a_link_once_there_is_one():
    assert ENGINE.links({}) == {}
    facts = {"head": [{"dashboard": "http://127.0.0.1:1/t/"}]}
    assert ENGINE.links(facts) == {"Ray dashboard": "http://127.0.0.1:1/t/"}


def test_ray_that_is_not_installed_is_named_with_the_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    with pytest.raises(EngineError, match=r"no module.*pip install 'flyte-jupyter\[ray\]'"):
        ENGINE.describe(ray(group()), None)


def test_a_ray_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(requirements, "version_of", lambda package, origin: "2.48.1")
    with pytest.raises(EngineError, match=r"2\.49 or later: ray 2\.48\.1 is installed"):
        ENGINE.describe(ray(group()), None)


def test_describing_imports_no_ray():
    import subprocess
    import sys

    code = (
        "import sys; import flyte_jupyter.engines.ray.engine as e;"
        "e.RayEngine().links({}); sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
