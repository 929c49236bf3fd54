"""Whatever a plugin config or an option holds, what comes out is one line of this package's.

Asked as a session asks: what is not honoured, what is to be remarked, and what it consists of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flyte
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flyte_jupyter.engines.options import configured, options_of
from flyte_jupyter.engines.registry import engines
from flyte_jupyter.errors import EngineError, FlyteJupyterError, UsageError
from flyte_jupyter.sessions.environments import Environment

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ENGINES = ["dask", "ray", "spark", "pytorch"]

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.builds(object),
    st.sampled_from(["1", "1:2", "-1", "²", "1Gi", "500m", "9" * 5000, "a\nb", 10**400, len]),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)


def fields(*names: str, **nested: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw some fields with anything in them, and `nested` ones with what belongs there or not."""
    found = dict.fromkeys(names, ANYTHING)
    found |= {name: inner | ANYTHING for name, inner in nested.items()}
    return st.fixed_dictionaries({}, optional=found)


def resources() -> st.SearchStrategy[Any]:
    return fields("cpu", "memory", "gpu", "disk").map(lambda given: made(flyte.Resources, given))


def made(kind: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Build something of Flyte's, or None if that refuses what it is given."""
    with contextlib.suppress(Exception):
        return kind(**given)
    return None


def dask_configs() -> st.SearchStrategy[Any]:
    from flyteplugins.dask import Dask, WorkerGroup

    group = fields("number_of_workers", "image", resources=resources())
    workers = group.map(lambda given: WorkerGroup(**given))
    return fields("scheduler", workers=workers).map(lambda given: made(Dask, given))


def ray_configs() -> st.SearchStrategy[Any]:
    from flyteplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig

    params = fields("num-cpus", "num-gpus", "memory", "object-store-memory", "resources", "labels")
    node = fields("pod_template", requests=resources(), limits=resources(), ray_start_params=params)
    sizes = fields("group_name", "replicas", "min_replicas", "max_replicas")
    group = st.tuples(sizes, node).map(
        lambda pair: WorkerNodeConfig(**{"group_name": "w", "replicas": 1, **pair[0], **pair[1]})
    )
    given = fields(
        "enable_autoscaling",
        "autoscaler_options",
        "address",
        "shutdown_after_job_finishes",
        "ttl_seconds_after_finished",
        worker_node_config=st.lists(group, max_size=2),
        head_node_config=node.map(lambda given: HeadNodeConfig(**given)),
        runtime_env=fields("env_vars", "working_dir", "py_modules", "config", "pip"),
    )
    return given.map(lambda given: made(RayJobConfig, {"worker_node_config": [], **given}))


def spark_configs() -> st.SearchStrategy[Any]:
    from flyteplugins.spark import Spark

    settings_of = fields(
        "spark.executor.instances",
        "spark.executor.cores",
        "spark.executor.memory",
        "spark.executor.memoryOverhead",
        "spark.memory.offHeap.size",
        "spark.driver.memory",
        "spark.driver.cores",
        "spark.local.dir",
        "spark.kubernetes.namespace",
        "spark.app.name",
    )
    given = fields(
        "hadoop_conf",
        "executor_path",
        "applications_path",
        "driver_pod",
        "executor_pod",
        spark_conf=settings_of,
    )
    return given.map(lambda given: made(Spark, given))


def pytorch_configs() -> st.SearchStrategy[Any]:
    from flyteplugins.pytorch import Elastic
    from flyteplugins.pytorch.task import RunPolicy

    policy = fields(
        "clean_pod_policy", "ttl_seconds_after_finished", "active_deadline_seconds", "backoff_limit"
    )
    given = fields(
        "nnodes",
        "nproc_per_node",
        "rdzv_backend",
        "monitor_interval",
        "max_restarts",
        "nccl_heartbeat_timeout_sec",
        "nccl_collective_timeout_sec",
        rdzv_configs=fields("timeout", "store_type", "is_host"),
        run_policy=policy.map(lambda given: RunPolicy(**given)),
    )
    least = {"nnodes": 1, "nproc_per_node": 1}
    return given.map(lambda given: made(Elastic, {**least, **given}))


CONFIGS = {
    "dask": dask_configs,
    "ray": ray_configs,
    "spark": spark_configs,
    "pytorch": pytorch_configs,
}


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Let errors of this package pass that are a line, and no others."""
    try:
        yield
    except FlyteJupyterError as error:
        text = str(error)
        assert text.strip()
        assert "\n" not in text


def look_at(config: Any) -> None:
    """Ask of an environment with this config all that a session asks before it starts anything."""
    declared = flyte.TaskEnvironment(name="e", plugin_config=config)
    with one_line():
        Environment.of(declared).not_honoured()
    with one_line():
        Environment.of(declared).remarks()
    with one_line():
        Environment.of(declared).spec({})


@pytest.fixture(params=ENGINES)
def engine(request):
    """The name of an engine whose Flyte plugin is installed."""
    pytest.importorskip(f"flyteplugins.{request.param}")
    return request.param


def test_any_config_is_described_or_refused_in_one_line(engine):
    @FUZZ
    @given(CONFIGS[engine]())
    def check(config):
        look_at(config)

    check()


VALUES = st.one_of(
    st.text(max_size=8),
    st.integers().map(str),
    st.sampled_from(["1", "2", "1:2", "²", "٣", "9" * 400, "9" * 5000, "1e400", "nan", "4Gi"]),
    st.text(max_size=5).map("spark.executor.memory={}".format),
)
WORDS = st.text(st.characters(exclude_characters="\n"), max_size=5)  # of a magic's line


def test_any_options_make_a_config_or_are_refused_in_one_line(engine):
    known = [*options_of(engines()[engine]), "zzz", ""]

    @FUZZ
    @given(st.dictionaries(st.sampled_from(known) | WORDS, VALUES, max_size=3))
    @example({"workers": "9" * 5000})
    @example({"workers": "9" * 400})
    def check(options):
        with one_line():
            look_at(configured(engines()[engine], options))

    check()


@pytest.mark.parametrize(
    ("replicas", "said"),
    [("2", "replicas of the worker group 'w' must be a whole number"), (None, "replicas of the")],
)
def test_what_the_engine_would_refuse_is_not_covered_by_what_it_stumbles_over(replicas, said):
    """The number of nodes is multiplied for a remark, before the config has been checked."""
    ray = pytest.importorskip("flyteplugins.ray")
    group = ray.WorkerNodeConfig(
        group_name="w", replicas=replicas, requests=flyte.Resources(cpu=1, memory="1Gi")
    )
    config = ray.RayJobConfig(worker_node_config=[group])
    environment = Environment.of(flyte.TaskEnvironment(name="e", plugin_config=config))
    with pytest.raises(EngineError, match=said):
        environment.remarks()


def test_a_field_that_nobody_checks_is_named_with_what_python_says_of_it():
    spark = pytest.importorskip("flyteplugins.spark")
    config = spark.Spark(spark_conf=["spark.executor.cores=1"])
    environment = Environment.of(flyte.TaskEnvironment(name="e", plugin_config=config))
    with pytest.raises(EngineError, match="cannot read the plugin_config of e: ") as caught:
        environment.spec({})
    assert caught.value.__cause__ is not None, "for who looks for a mistake of the engine's"


def test_an_engine_that_lets_an_exception_of_pythons_out_is_answered_for():
    class Careless:
        name = "careless"

        def configure(self, options):
            return int(options["servers"])

    assert configured(Careless(), {"servers": "2"}) == 2
    with pytest.raises(UsageError, match="careless engine cannot use --servers: ValueError: inval"):
        configured(Careless(), {"servers": "two"})
