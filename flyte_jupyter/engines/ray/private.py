"""The private names of Ray's that nodes use; `private_driver.py` has the driver's.

Ray has a public way to start a node, its command line, which imports Ray anew for each, takes fixed
ports, and starts a dozen processes. This uses what that command line itself and Ray's own
`cluster_utils.Cluster` are made of. Contract tests fail loudly when a new Ray changes one of:

- `ray._private.node.Node` and `ray._private.parameter.RayParams`
- `ray._private.services._build_python_executable_command_memory_profileable`
- `ray._private.ray_constants.ENABLE_RAY_CLUSTER`
- `ray._raylet.Config.initialize`, which has a process read Ray's variables again
- `ray._raylet.GcsClient.drain_node` and `ray.autoscaler.v2.sdk.get_cluster_status`
- `ray._raylet.persist_port` and the names under which agents tell their ports
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ray
import ray._private.node
import ray._private.parameter
import ray._private.ray_constants
import ray._private.services
import ray._raylet

from flyte_jupyter.engines.ray import agents
from flyte_jupyter.engines.ray.agent_client import VARIABLE

HOST = "127.0.0.1"
TEMPORARY = "r"
"""The folder of Ray's own files in a cluster's."""
_DAY = "86400000"
_STORE = "object_store_memory"


def use_token(token: str) -> None:
    """Have this process and those that it starts take part in a cluster with that token."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = token
    leave_statistics_off()
    # Workers write their title over their environment, by which they are known as the cluster's.
    os.environ["SPT_NOENV"] = "1"
    # What Ray waits for it looks for an interrupt so often, in milliseconds.
    os.environ.setdefault("RAY_get_check_signal_interval_milliseconds", "50")
    use_loopback()
    # Ray has read its variables when it was imported, which was before there was a token.
    ray._raylet.Config.initialize("")


def leave_statistics_off() -> None:
    """Have Ray report nothing, unless the user has said so: by its variable, or once and for all.

    ``ray enable-usage-stats`` writes the latter to a file, before which a variable would go.
    """
    path = os.environ.get("RAY_USAGE_STATS_CONFIG_PATH", "~/.ray/config.json")
    try:
        wanted = json.loads(Path(path).expanduser().read_text()).get("usage_stats") is True
    except (OSError, ValueError, AttributeError):  # none, or none that Ray would read
        wanted = False
    if not wanted:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def use_loopback() -> None:
    """Have Ray take 127.0.0.1 for what it says, and not for an address that others can reach."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


_DASHBOARD: bytes = ray._private.ray_constants.DASHBOARD_ADDRESS.encode()
_started = ray._private.services._build_python_executable_command_memory_profileable


def _forked(*_: Any, **__: Any) -> list[str]:
    return agents.command()


class LocalNode(ray._private.node.Node):
    """A node of Ray's without what a local cluster has no use for.

    There is no autoscaler to be told; the dashboard is started when somebody opens it; and the
    driver reads itself what workers print.
    """

    def start_api_server(self, **_: Any) -> None:
        """Start none."""

    def start_log_monitor(self) -> None:
        """Start none."""

    def start_raylet(self, *args: Any, **kwargs: Any) -> None:
        """Say first that there is no agent of the dashboard, for the raylet waits for its ports."""
        for name in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN"):
            port = getattr(ray._raylet, f"{name}_PORT_NAME")
            ray._raylet.persist_port(self._session_dir, self._node_id, port, -1)
        super().start_raylet(*args, **kwargs)

    def announce_dashboard(self, address: str) -> None:
        """Tell the cluster where its dashboard is, for what asks for it: `ray.util.state`."""
        client, space = self.get_gcs_client(), ray._private.ray_constants.KV_NAMESPACE_DASHBOARD
        for key in (b"webui:url", _DASHBOARD):
            client.internal_kv_put(key, address.encode(), True, space)

    def open_dashboard(self, port: int) -> str:
        """Start the dashboard at a port of this machine, and return where it answers."""
        ray._private.services._build_python_executable_command_memory_profileable = _started
        self._ray_params.dashboard_host, self._ray_params.dashboard_port = HOST, port
        space = ray._private.ray_constants.KV_NAMESPACE_DASHBOARD
        self.get_gcs_client().internal_kv_del(_DASHBOARD, False, space)  # Ray waits for another
        self.all_processes.pop(ray._private.ray_constants.PROCESS_TYPE_DASHBOARD, None)
        # The dashboard is killed in the end, and what it puts there goes with the cluster.
        os.environ["TMPDIR"] = str(self._ray_params.temp_dir)
        super().start_api_server(include_dashboard=True, raise_on_failure=True)
        return str(self.webui_url)

    def ended(self) -> list[str]:
        """Return what of the node has ended, the dashboard not counted."""
        dashboard = ray._private.ray_constants.PROCESS_TYPE_DASHBOARD
        return [str(kind) for kind, _ in self.dead_processes() if kind != dashboard]


def start_node(folder: Path, name: str, options: Mapping[str, Any], gcs: str = "") -> LocalNode:
    """Start a node and return when it has joined its cluster.

    Parameters
    ----------
    folder
        The cluster's folder.
    name
        The member's name.
    options
        Of `RayParams`: the node's resources.
    gcs
        Address of the head; empty for the head itself.
    """
    # Nodes that start at once would choose the same names for their sockets. These must be short.
    place = str(folder / str(os.getpid()))
    os.environ[VARIABLE] = f"{place}a"
    agents.await_order(Path(f"{place}a"))
    ray._private.services._build_python_executable_command_memory_profileable = _forked
    # Workers import Ray while the driver still starts, and not when the first task waits for them.
    os.environ.setdefault("RAY_enable_worker_prestart", "1")
    # Pages of counters, once a day instead of every few seconds; no number turns them off.
    os.environ.setdefault("RAY_debug_dump_period_milliseconds", _DAY)
    os.environ.setdefault("RAY_event_stats_print_interval_ms", _DAY)
    params = ray._private.parameter.RayParams(
        gcs_address=gcs or None,
        node_ip_address=HOST,
        node_name=name,
        # The dashboard has sockets below both.
        temp_dir=str(folder / TEMPORARY),
        session_name="s",
        plasma_store_socket_name=f"{place}p",
        raylet_socket_name=f"{place}r",
        setup_worker_path=os.fspath(agents.CLIENT.with_name("setup_worker.py")),
        min_worker_port=0,
        max_worker_port=0,
        dashboard_port=0,
        dashboard_agent_listen_port=None,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        log_to_stderr=True,
        **options,
    )
    return LocalNode(
        params,
        head=not gcs,
        shutdown_at_exit=False,
        spawn_reaper=True,
        # Of others the dashboard reports, where statistics are off, that they are.
        ray_init_cluster=not gcs,
    )


def drain(gcs: str, node: str, seconds: float) -> None:
    """Have a node take no more tasks, and end when those that it has have ended.

    Parameters
    ----------
    gcs
        Address of the head.
    node
        The node's id.
    seconds
        Until it is taken away in any case, which Ray tells what runs there.
    """
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + seconds) * 1000)
    ray._raylet.GcsClient(address=gcs).drain_node(node, reason, "scaled down", deadline)


def busy(gcs: str, nodes: Collection[str]) -> bool:
    """Whether tasks or actors are on one of the nodes; objects that lie there do not count."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(gcs)
    found = [node for node in status.active_nodes if node.node_id in nodes]
    return any(_STORE not in activity for node in found for activity in node.node_activity or ())
