"""Environments: how they are found, and what of them holds here."""

from __future__ import annotations

import flyte
import pytest

from flyte_jupyter.errors import EnvironmentNotFound
from flyte_jupyter.sessions.environments import Environment, declared_in, find, named


@pytest.fixture
def notebook():
    return {
        "train": flyte.TaskEnvironment(name="training"),
        "score": flyte.TaskEnvironment(name="scoring"),
        "_hidden": flyte.TaskEnvironment(name="hidden"),
        "number": 42,
    }


@pytest.mark.parametrize(
    ("name", "found"), [("train", "training"), ("training", "training"), ("scoring", "scoring")]
)
def test_an_environment_is_found_by_variable_and_by_its_own_name(notebook, name, found):
    assert find(name, notebook, {}).name == found


def test_a_declared_one_is_found_and_a_variable_goes_first(notebook):
    declared = {"extra": flyte.TaskEnvironment(name="extra"), "train": object()}
    assert find("extra", notebook, declared).name == "extra"
    assert find("train", notebook, declared).name == "training"


def test_a_tasks_environment_is_found_by_its_own_name_whatever_variables_are_called(notebook):
    meant, other = flyte.TaskEnvironment(name="meant"), flyte.TaskEnvironment(name="other")
    assert named("meant", {"meant": other, "x": meant}, {}) is meant
    assert named("meant", {"meant": other}, {"meant": meant}) is meant
    with pytest.raises(EnvironmentNotFound, match="'meant'"):
        named("meant", {"meant": other}, {})


def test_variables_that_begin_with_an_underscore_are_not_listed(notebook):
    assert [name for name, _ in declared_in(notebook)] == ["train", "score"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trian", "no environment is called 'trian'. Did you mean 'train'?"),
        ("xyzzy", "no environment is called 'xyzzy'. There are score, scoring, train, training."),
        ("number", "'number' is not a task environment: it is a int. Name a flyte.TaskEnvironment"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(notebook, name, said):
    with pytest.raises(EnvironmentNotFound) as caught:
        find(name, notebook, {})
    assert str(caught.value).startswith(said)


def test_the_first_environment_is_shown_how_to_be_declared():
    with pytest.raises(EnvironmentNotFound, match=r"Declare one: env = flyte\.TaskEnvironment"):
        find("env", {}, {})


def test_a_bare_environment_is_honoured_wholly():
    assert Environment.of(flyte.TaskEnvironment(name="bare")).not_honoured() == {}
    explicit = flyte.TaskEnvironment(name="e", image=flyte.Image.from_debian_base())
    assert "image" not in Environment.of(explicit).not_honoured()


def test_each_field_without_effect_is_named_with_its_reason():
    declared = flyte.TaskEnvironment(
        name="full",
        resources=flyte.Resources(cpu=2),
        image="ghcr.io/somebody/image:v1",
        interruptible=True,
        queue="gpu",
        service_account="robot",
        pod_template="template",
        env_vars={"A": "1"},
        secrets=[flyte.Secret(key="k", mount="/etc/flyte/secrets")],
    )
    reasons = Environment.of(declared).not_honoured()
    assert set(reasons) == {
        "image.base_image",
        "resources",
        "interruptible",
        "queue",
        "service_account",
        "pod_template",
        "secrets.mount",
    }
    assert all(reason and not reason.endswith(".") for reason in reasons.values())


def test_a_reuse_policy_bounds_what_runs_at_once_and_how_long_a_cluster_stays_idle():
    policy = flyte.ReusePolicy(replicas=(1, 3), concurrency=2, idle_ttl=40)
    environment = Environment.of(flyte.TaskEnvironment(name="e", reusable=policy))
    assert environment.capacity == 6
    assert environment.spec({}).linger == 40
    assert environment.not_honoured() == {}
    bare = Environment.of(flyte.TaskEnvironment(name="e"))
    assert bare.capacity is None
    assert bare.spec({}).linger is None
    own = flyte.TaskEnvironment(name="e", reusable=flyte.ReusePolicy(scope="run"))
    assert list(Environment.of(own).not_honoured()) == ["reusable.scope"]
    slow = flyte.TaskEnvironment(name="e", reusable=flyte.ReusePolicy(scaledown_ttl=90))
    assert list(Environment.of(slow).not_honoured()) == ["reusable.scaledown_ttl"]


def test_the_processes_get_the_variables_and_secrets():
    declared = flyte.TaskEnvironment(name="e", env_vars={"A": "1", "B": "1"})
    spec = Environment.of(declared).spec({"B": "secret"})
    assert spec.env == {"A": "1", "B": "secret"}


def test_settings_of_spark_for_elsewhere_are_named_one_by_one_or_as_a_kind():
    spark = pytest.importorskip("flyteplugins.spark")

    def named(**settings):
        conf = {f"spark.kubernetes.{key}": value for key, value in settings.items()}
        declared = flyte.TaskEnvironment(name="e", plugin_config=spark.Spark(spark_conf=conf))
        return list(Environment.of(declared).not_honoured())

    assert named(namespace="x") == ["plugin_config.spark_conf['spark.kubernetes.namespace']"]
    assert named(namespace="x", a="y") == ["plugin_config.spark_conf['spark.kubernetes.*']"]


def test_environments_that_depend_on_each_other_in_a_circle_are_named():
    first = flyte.TaskEnvironment(name="first")
    second = flyte.TaskEnvironment(name="second", depends_on=[first])
    third = flyte.TaskEnvironment(name="third", depends_on=[second, first])
    assert Environment.of(third).remarks() == []
    first.add_dependency(third)
    (said,) = Environment.of(first).remarks()
    assert said == "depends_on goes round in a circle: first -> third -> first"
    (said,) = Environment.of(second).remarks()
    assert said.endswith("second -> first -> third -> second")
