"""One node's part in one task: torch's elastic agent, and the ranks that it starts.

The agent is torch's own `LocalElasticAgent`, with its rendezvous, ranks, restarts and exit barrier.
What is different is how it starts and watches processes. Ranks are forked, from a process that has
imported torch and never touched CUDA; and their end is noticed when it happens, where torch would
sleep for `monitor_interval`. So nothing is left for semaphores, files in the temporary folder or a
resource tracker, and torch's deadlock when all ranks are killed at once cannot happen.

A rank leaves with the code `LEFT` when the driver has told it to; any other end is a failure.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch.distributed as dist
from torch.distributed.elastic.agent.server import api as agent_api
from torch.distributed.elastic.agent.server import local_elastic_agent
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import (
    LogsDest,
    LogsSpecs,
    PContext,
    RunProcsResult,
)
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousParameters,
    dynamic_rendezvous,
    registry,
)

from flyte_jupyter.engines.pytorch.frames import FrameSocket
from flyte_jupyter.engines.pytorch.lifeline import become, kill_group

HOST = "127.0.0.1"
LEFT = 86
"""Exit code of a rank that the driver has let go."""
_OTHER_NODES = 0.2
"""Seconds after which an agent looks whether other nodes have begun anew."""
_NO_TIME = 1e-9
_RENDEZVOUS = {"last_call_timeout": 1, "keep_alive_interval": 1}
"""What suits nodes on one machine; `rdzv_configs` goes before it."""


@dataclass(frozen=True)
class Orders:
    """What a node is asked to do.

    Parameters
    ----------
    run
        Name of the run; a fresh one for each rendezvous.
    nproc
        Ranks of this node.
    nodes
        How many nodes there are; each has been asked.
    least
        How many are enough.
    rendezvous
        Path of the file by which nodes meet.
    max_restarts, monitor_interval, rdzv_configs
        As `Elastic` has them.
    task
        What the ranks need: see `rank.Task`.
    """

    run: str
    nproc: int
    nodes: int
    least: int
    rendezvous: str
    max_restarts: int
    monitor_interval: float
    rdzv_configs: dict[str, Any]
    task: Any


class _NoLogs(LogsSpecs):
    """Torch's logs of ranks: none, for they send what they print to the driver."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        nowhere = dict.fromkeys(envs, "")
        return LogsDest(nowhere, nowhere, {}, {}, nowhere)

    @property
    def root_log_dir(self) -> str:
        return os.devnull


class Ranks(PContext):
    """The processes of one start of a node's ranks."""

    def __init__(self, body: Callable[[dict[str, str]], NoReturn], **options: Any) -> None:
        known = ("name", "entrypoint", "args", "envs", "logs_specs", "log_line_prefixes")
        super().__init__(**{name: options[name] for name in known})
        self._body = body
        self._pids: dict[int, int] = {}
        self._codes: dict[int, int] = {}

    def pids(self) -> dict[int, int]:
        """Return the process id of each local rank."""
        return dict(self._pids)

    def _start(self) -> None:
        for local in range(self.nprocs):
            parent = os.getpid()
            self._pids[local] = os.fork() or self._be(local, parent)

    def _be(self, local: int, parent: int) -> NoReturn:
        try:
            os.setpgid(0, 0)
            become(f"flyte:rank-{self.envs[local]['RANK']}", parent)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            self._body(self.envs[local])
        except BaseException:  # noqa: BLE001 - the last frame of a process: its log must say why
            traceback.print_exc()
        finally:
            os._exit(1)

    def wait_for_end(self, patience: float) -> None:
        """Return when a rank has ended that had not, or patience is at its end."""
        watched = [self._pids[local] for local in self._pids if local not in self._codes]
        try:
            ends = [os.pidfd_open(pid) for pid in watched]
        except (AttributeError, OSError):  # not Linux
            time.sleep(min(patience, 0.05))
            return
        try:
            select.select(ends, [], [], patience)
        finally:
            for end in ends:
                os.close(end)

    def _poll(self) -> RunProcsResult | None:
        self._reap(os.WNOHANG)
        failed = {local: code for local, code in self._codes.items() if code != LEFT}
        if failed:
            self.close()
            failures = {
                local: ProcessFailure(local, self._pids[local], code, "")
                for local, code in failed.items()
            }
            return RunProcsResult(failures=failures)
        if len(self._codes) < self.nprocs:
            return None
        return RunProcsResult(return_values=dict.fromkeys(self._pids))

    def _reap(self, options: int) -> None:
        for local, pid in self._pids.items():
            if local not in self._codes:
                # What a rank leaves in its group goes with it, while its number is still its own.
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | options)
                if ended is not None:
                    kill_group(pid)
                    _, status = os.waitpid(pid, 0)
                    self._codes[local] = os.waitstatus_to_exitcode(status)

    def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
        """End them at once: they are of no use any more, and may hang in a collective."""
        del death_sig, timeout
        for local, pid in self._pids.items():
            if local not in self._codes:
                kill_group(pid)
        self._reap(0)


class NodeAgent(LocalElasticAgent):
    """Torch's agent, which says what it does and notices ends at once.

    Parameters
    ----------
    spec, logs_specs
        As torch's has them.
    orders
        What it was asked to do.
    driver
        Who wants to know.
    """

    def __init__(
        self, spec: WorkerSpec, logs_specs: LogsSpecs, orders: Orders, driver: FrameSocket
    ) -> None:
        super().__init__(spec, logs_specs, start_method="fork", exit_barrier_timeout=60)
        self._orders, self._driver = orders, driver
        self._failures: dict[int, int] = {}

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        # Else torch (2.13) gives restarted ranks the store that holds the addresses of dead ones,
        # and they wait for these for ever.
        handler: Any = worker_group.spec.rdzv_handler
        handler._bootstrap_store_info = handler._shared_tcp_store_server = None
        super()._rendezvous(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        patience = float(self._orders.monitor_interval)
        if self._orders.nodes > 1:
            patience = min(patience, _OTHER_NODES)
        ranks: Any = self._pcontext
        ranks.wait_for_end(patience)
        result: RunResult = super()._monitor_workers(worker_group)
        self._failures = {rank: f.exitcode for rank, f in result.failures.items()}
        return result

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        left = self._remaining_restarts
        self._driver.say("restarting", failures=self._failures, left=left)
        super()._restart_workers(worker_group)


def be_agent(
    orders: Orders, driver: FrameSocket, body: Callable[[dict[str, str]], NoReturn]
) -> None:
    """Run one task's ranks on this node, and tell the driver how that ended.

    Parameters
    ----------
    orders
        What to do.
    driver
        The connection on which the driver asked.
    body
        What a rank does, given its environment variables; it does not return.
    """
    _suit_one_machine()
    # An interrupt is sent to ranks, by the driver; an agent goes when its node or driver wants so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP"
    local_elastic_agent.start_processes = lambda **options: _started(Ranks(body, **options))
    handler: Any = registry.get_rendezvous_handler(
        RendezvousParameters(
            backend="c10d",
            endpoint=orders.rendezvous,
            run_id=orders.run,
            min_nodes=orders.least,
            max_nodes=orders.nodes,
            local_addr=HOST,
            **{**_RENDEZVOUS, **orders.rdzv_configs, "store_type": "file"},
        )
    )
    handler._create_tcp_store_server = lambda address, port: loopback_store()
    spec = WorkerSpec(
        role="default",
        local_world_size=orders.nproc,
        rdzv_handler=handler,
        fn=_body_of_ranks,
        max_restarts=orders.max_restarts,
        monitor_interval=_NO_TIME,  # `NodeAgent` waits itself
        local_addr=HOST,
    )
    agent = NodeAgent(spec, _NoLogs(), orders, driver)
    result = agent.run()
    failures = {rank: failure.exitcode for rank, failure in result.failures.items()}
    driver.say("ended", failed=result.is_failed(), failures=failures)


def _body_of_ranks() -> None:
    """Give the ranks' function a name, for torch's records."""


def _started(ranks: Ranks) -> Ranks:
    ranks.start()
    return ranks


def loopback_store() -> dist.TCPStore:
    """Return a store for ranks that listens on loopback alone; torch's own would everywhere."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, 0))
    listener.listen()
    port = listener.getsockname()[1]
    return dist.TCPStore(
        HOST,
        port,
        is_master=True,
        multi_tenant=False,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _suit_one_machine() -> None:
    """Have torch not wait to spare a network and a store that are not there."""
    dynamic_rendezvous._delay = lambda seconds: time.sleep(0.005)
    # It looks through the whole stack, several times, for events that nobody records.
    dynamic_rendezvous.get_method_name = lambda depth=2: "rendezvous"
    # Its events name the host, for which it would ask a name server.
    agent_api._get_fq_hostname = lambda: HOST
    LocalElasticAgent._get_fq_hostname = lambda self: HOST


def report_crash(driver: FrameSocket) -> None:
    """Tell the driver about an exception of the agent itself."""
    traceback.print_exc()
    error = sys.exception() if sys.version_info >= (3, 11) else sys.exc_info()[1]
    with contextlib.suppress(OSError):
        driver.say("broken", error=f"{type(error).__name__}: {error}")
