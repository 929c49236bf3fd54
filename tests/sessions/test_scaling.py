"""Which members are scaled, and that no number is taken that the environment does not declare."""

from __future__ import annotations

import flyte
import pytest

from flyte_jupyter import Session
from flyte_jupyter.engines.engine import ClusterSpec, Role
from flyte_jupyter.errors import ClusterError
from flyte_jupyter.sessions.scaling import scalable_role


def spec(*roles: Role) -> ClusterSpec:
    return ClusterSpec("toy", (Role("head", "m:head", vital=True), *roles))


def group(name: str = "small", replicas: int = 2, **more: object) -> Role:
    return Role(name, "m:work", replicas=replicas, **{"scalable": True, **more})


def bounded(low: int | None, high: int | None, name: str = "small", **more: object) -> Role:
    return group(name, least=low, most=high, **{"bounds": "low={least}, high={most}", **more})


def refused(made: ClusterSpec, replicas: int, name: str = "") -> str:
    with pytest.raises(ClusterError) as caught:
        scalable_role("env", made, name, replicas)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_bounds_any_number_is_taken():
    assert scalable_role("env", spec(group()), "", 1000).name == "small"
    assert scalable_role("env", spec(group(), group("large")), "large", 1).name == "large"


def test_none_is_taken_where_the_environment_says_so():
    assert scalable_role("env", spec(bounded(0, 3)), "", 0).name == "small"
    assert scalable_role("env", spec(group(replicas=0)), "", 0).name == "small"


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_numbers_within_the_bounds_are_taken(replicas):
    assert scalable_role("env", spec(bounded(1, 3)), "", replicas).name == "small"


@pytest.mark.parametrize(
    ("bounds", "replicas", "said"),
    [
        ((1, 3), 4, "'small' takes 1 to 3. Type: %flyte scale env 3, or declare low=1, high=4"),
        ((2, 3), 1, "'small' takes 2 to 3. Type: %flyte scale env 2, or declare low=1, high=3"),
        ((2, 2), 5, "'small' takes exactly 2. Type: %flyte scale env 2, or declare low=2, high=5"),
        ((None, 3), 4, "'small' takes at most 3. Type: %flyte scale env 3"),
        ((2, None), 1, "'small' takes at least 2. Type: %flyte scale env 2"),
        ((None, None), 0, "'small' takes at least 1. Type: %flyte scale env 1"),
        ((None, 3), 0, "'small' takes at least 1. Type: %flyte scale env 1"),
    ],
)
def test_a_number_outside_is_refused_with_the_range_and_what_to_type(bounds, replicas, said):
    message = refused(spec(bounded(*bounds)), replicas)
    assert message.startswith(f"env cannot be scaled to {replicas}: ")
    assert said in message


def test_a_group_among_several_is_named_in_what_to_type():
    made = spec(bounded(1, 2), group("large"))
    assert "Type: %flyte scale env 2 --group small" in refused(made, 9, "small")
    assert scalable_role("env", made, "large", 9).name == "large"


def test_an_engine_that_says_no_more_than_numbers_is_enough():
    message = refused(spec(bounded(1, 2, bounds="")), 3)
    assert message.endswith("takes 1 to 2. Type: %flyte scale env 2")


@pytest.mark.parametrize("name", ["", "small"])
def test_a_fixed_group_is_said_to_be_and_what_would_be_none(name):
    made = spec(bounded(1, 1, replicas=1, scalable=False))
    assert refused(made, 2, name) == (
        "env cannot be scaled: its group 'small' is fixed at 1. A range can be: low=1, high=2"
    )


def test_a_fixed_group_keeps_no_other_from_being_scaled():
    made = spec(bounded(1, 1, scalable=False), group("large"))
    assert scalable_role("env", made, "", 4).name == "large"
    assert "'small' is fixed" in refused(made, 4, "small")


def test_what_has_nothing_to_scale_says_so():
    assert refused(spec(), 2) == "env cannot be scaled: the toy engine has nothing to scale"


def test_several_groups_are_named():
    made = spec(group(), group("large"))
    assert "several groups: there are small, large" in refused(made, 2)
    assert "no group 'none': there are small, large" in refused(made, 2, "none")


def test_ray_groups_have_the_bounds_that_they_declare():
    ray = pytest.importorskip("flyteplugins.ray")
    from flyte_jupyter.engines.ray.engine import RayEngine

    declared = [
        ray.WorkerNodeConfig(group_name="free", replicas=2),
        ray.WorkerNodeConfig(group_name="most", replicas=2, max_replicas=3),
        ray.WorkerNodeConfig(group_name="both", replicas=2, min_replicas=2, max_replicas=3),
    ]
    made = RayEngine().describe(ray.RayJobConfig(worker_node_config=declared), None)
    assert scalable_role("env", made, "free", 50).name == "free"
    assert refused(made, 4, "most").endswith(
        "takes at most 3. Type: %flyte scale env 3 --group most, or declare max_replicas=4"
    )
    assert refused(made, 1, "both").endswith(
        "Type: %flyte scale env 2 --group both, or declare min_replicas=1, max_replicas=3"
    )


@pytest.fixture
def torch(make_session) -> Session:
    """A session with an environment of one PyTorch node, whose number is fixed."""
    pytest.importorskip("torch")
    pytest.importorskip("flyteplugins.pytorch")
    made = make_session(prewarm=False)
    declare(made, 1)
    return made


def declare(session: Session, nnodes: int | str) -> None:
    from flyteplugins.pytorch import Elastic

    config = Elastic(nnodes=nnodes, nproc_per_node=1)
    session.namespace["env"] = flyte.TaskEnvironment(name="torch_env", plugin_config=config)


def test_nodes_are_scaled_within_what_is_declared_at_that_moment(torch):
    torch.ready(torch.up("env"))
    with pytest.raises(
        ClusterError, match=r"'node' is fixed at 1\. A range can be: nnodes=\"1:2\""
    ):
        torch.scale("env", 2)
    declare(torch, "1:2")
    assert torch.scale("env", 1).summary() == "1 node"
    assert torch.said == ["torch_env is declared differently now: its cluster starts anew."]
    cluster = torch.cluster("env")
    with pytest.raises(ClusterError, match=r"scaled to 3: .* takes 1 to 2\. .* nnodes=\"1:3\""):
        torch.scale("env", 3)
    assert cluster.summary() == "1 node"
    declare(torch, "1:3")
    assert torch.scale("env", 3) is cluster, "another range is no reason to start anew"
    assert cluster.summary() == "3 nodes"
