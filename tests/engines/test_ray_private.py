"""The private names of Ray's that this package uses: a new Ray that changes one fails here."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest

ray = pytest.importorskip("ray")


def test_a_node_is_made_of_what_is_replaced_in_it():
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    for name in ("start_api_server", "start_log_monitor", "start_raylet", "dead_processes"):
        assert callable(getattr(Node, name))
    source = inspect.getsource(Node)
    assert "self._session_dir" in source
    assert "self._node_id" in source
    known = set(inspect.signature(RayParams.__init__).parameters)
    assert known >= {
        "gcs_address",
        "node_ip_address",
        "node_name",
        "temp_dir",
        "session_name",
        "plasma_store_socket_name",
        "raylet_socket_name",
        "setup_worker_path",
        "log_to_stderr",
        "no_monitor",
    }


def test_agents_are_started_by_the_command_that_is_replaced():
    from ray._private import services

    name = "_build_python_executable_command_memory_profileable"
    assert getattr(services, name)("x", "/tmp")[0] == sys.executable
    assert inspect.getsource(services.start_raylet).count(name) == 2
    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(services.get_node_ip_address)


def test_ports_of_agents_have_names_and_variables_can_be_read_again():
    from ray import _raylet

    for name in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN"):
        assert isinstance(getattr(_raylet, f"{name}_PORT_NAME"), str)
    assert callable(_raylet.persist_port)
    assert callable(_raylet.Config.initialize)


def test_a_node_is_drained_by_a_call_of_the_autoscaler():
    from ray import _raylet
    from ray.autoscaler.v2 import sdk
    from ray.autoscaler.v2.schema import ClusterStatus, NodeInfo
    from ray.core.generated import autoscaler_pb2

    assert autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert callable(_raylet.InnerGcsClient.drain_node)  # to which GcsClient passes it on
    assert "gcs_address" in inspect.signature(sdk.get_cluster_status).parameters
    assert "active_nodes" in ClusterStatus.__annotations__
    assert {"node_id", "node_activity"} <= set(NodeInfo.__annotations__)
    assert {"idle_nodes", "resource_demands"} <= set(ClusterStatus.__annotations__)
    assert "resource_usage" in NodeInfo.__annotations__


def test_what_workers_print_is_marked_and_printed_by_a_function():
    code = (
        "from flyte_jupyter.engines.ray import private_driver as p\n"
        "assert set(p.MARKS.values()) == {'job', 'actor_name', 'task_name'}\n"
        "batch = {'pid': 7, 'is_err': False, 'lines': ['words'], 'job': '01',"
        " 'actor_name': None, 'task_name': 'f'}\n"
        "p.print_lines(batch); p.print_held_lines()"
    )
    environ = {**os.environ, "RAY_COLOR_PREFIX": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "(f pid=7) words\n"


def test_submissions_can_be_heard_of_and_what_has_not_ended_can_be_found():
    import ray.actor
    import ray.remote_function
    from ray import _raylet

    kinds = (ray.remote_function.RemoteFunction, ray.actor.ActorMethod, ray.actor.ActorClass)
    for kind in kinds:
        assert "self._remote(" in inspect.getsource(kind)
    for name in (
        "kill_actor",
        "get_current_task_id",
        "get_pending_children_task_ids",
        "serialize_object_ref",
        "deserialize_and_register_object_ref",
    ):
        assert callable(getattr(_raylet.CoreWorker, name))
    assert "_generator_ref" in inspect.getsource(ray.cancel)
    from ray.util.placement_group import PlacementGroup

    assert list(inspect.signature(PlacementGroup.__init__).parameters)[1:] == ["id", "bundle_cache"]


def test_what_is_published_is_printed_by_a_handler_of_that_name():
    from ray._private import ray_logging, worker

    dispatcher = worker.global_worker_stdstream_dispatcher
    assert isinstance(dispatcher, ray_logging.WorkerStandardStreamDispatcher)
    assert '"ray_print_logs",' in inspect.getsource(worker.connect)
    assert worker._global_node is None
    assert 'data["localhost"] = ' in inspect.getsource(worker.Worker.print_logs)


def test_rays_own_cloudpickle_has_a_registry_to_share():
    import cloudpickle.cloudpickle
    import ray.cloudpickle.cloudpickle

    for module in (cloudpickle.cloudpickle, ray.cloudpickle.cloudpickle):
        assert isinstance(module._PICKLE_BY_VALUE_MODULES, set)


def test_a_dashboard_without_statistics_reports_that_only_of_other_clusters():
    from ray._private.node import Node
    from ray.dashboard.modules.usage_stats.usage_stats_head import UsageStatsHead

    assert "ray_init_cluster" in inspect.signature(Node.__init__).parameters
    source = inspect.getsource(UsageStatsHead._report_disabled_usage_sync)
    asked = "if ray_usage_lib.is_ray_init_cluster(self.gcs_client):\n                return\n"
    assert source.index(asked) < source.index("report_usage_data")


@pytest.mark.parametrize(
    ("variable", "file", "enabled"),
    [
        (None, None, False),
        (None, "not JSON", False),
        (None, '{"usage_stats": false}', False),
        (None, '{"usage_stats": true}', True),
        ("1", None, True),
        ("1", '{"usage_stats": false}', True),
        ("0", '{"usage_stats": true}', False),
    ],
)
def test_statistics_are_off_unless_the_user_turns_them_on(
    tmp_path, monkeypatch, variable, file, enabled
):
    from ray._common.usage import usage_lib

    from flyte_jupyter.engines.ray import private

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", variable or "0")
    if variable is None:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    monkeypatch.setenv("RAY_USAGE_STATS_CONFIG_PATH", str(tmp_path / "config.json"))
    if file is not None:
        (tmp_path / "config.json").write_text(file)
    private.leave_statistics_off()
    assert usage_lib.usage_stats_enabled() is enabled


def test_importing_ray_starts_no_thread():
    code = "import os\nimport flyte_jupyter.engines.ray.processes\n"
    code += "print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("prefix", [[], ["cd", "/", "&&"]])
def test_a_prepared_worker_has_its_variables_and_its_folder(tmp_path, prefix):
    from flyte_jupyter.engines.ray import agents

    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys\nprint(os.environ['A'], os.environ['B'], os.getcwd(), sys.argv[1:])"
    )
    context = {
        "env_vars": {"A": "x y", "B": "${HOME_OF_NOBODY}${A_GIVEN}"},
        "command_prefix": prefix,
        "py_executable": sys.executable,
    }
    script = str(agents.CLIENT.with_name("setup_worker.py"))
    options = [f"--serialized-runtime-env-context={json.dumps(context)}", "--language=PYTHON"]
    done = subprocess.run(
        [sys.executable, script, str(worker), "--node=a b", *options],
        env={**os.environ, "A_GIVEN": "given"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = "/" if prefix else str(tmp_path)
    assert done.stdout == f"x y given {folder} ['--node=a b']\n"
