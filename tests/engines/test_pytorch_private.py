"""The private names of torch's that this package uses: a new torch that changes one fails here."""

from __future__ import annotations

import inspect

import pytest

torch = pytest.importorskip("torch")


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_an_agent_is_made_of_what_is_replaced_in_it():
    from torch.distributed.elastic.agent.server import api, local_elastic_agent

    agent = local_elastic_agent.LocalElasticAgent
    for name in ("_rendezvous", "_monitor_workers", "_restart_workers"):
        assert parameters(getattr(agent, name)) == ["self", "worker_group"]
        assert f"self.{name}(" in inspect.getsource(api)
    assert parameters(agent)[:2] == ["spec", "logs_specs"]
    assert {"start_method", "exit_barrier_timeout"} <= set(parameters(agent))
    source = inspect.getsource(local_elastic_agent)
    assert "self._pcontext = start_processes(" in source, "by the module's name, as replaced"
    assert "result = self._pcontext.wait(0)" in source
    assert "self._remaining_restarts -= 1" in inspect.getsource(api)


def test_an_agent_asks_for_the_name_of_the_host_by_what_is_replaced():
    from torch.distributed.elastic.agent.server import api
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    assert callable(api._get_fq_hostname)
    assert callable(LocalElasticAgent._get_fq_hostname)


def test_an_agent_looks_as_soon_as_its_interval_is_over():
    from torch.distributed.elastic.agent.server import api

    source = inspect.getsource(api.SimpleElasticAgent._invoke_run)
    assert "monitor_interval = spec.monitor_interval" in source
    assert "time.sleep(monitor_interval)" in source


def test_ranks_are_a_context_of_processes_as_torch_has_them():
    from torch.distributed.elastic.multiprocessing import api

    from flyte_jupyter.engines.pytorch.agent import Ranks, _NoLogs

    context = api.PContext
    known = ["self", "name", "entrypoint", "args", "envs", "logs_specs", "log_line_prefixes"]
    assert parameters(context.__init__)[:7] == known
    assert context.__abstractmethods__ == {"_start", "_poll", "_close", "pids"}
    assert parameters(context._close) == ["self", "death_sig", "timeout"]
    assert not Ranks.__abstractmethods__
    assert not _NoLogs.__abstractmethods__
    names = ("stdouts", "stderrs", "tee_stdouts", "tee_stderrs", "error_files")
    assert tuple(api.LogsDest.__dataclass_fields__)[:5] == names
    assert set(api.RunProcsResult.__dataclass_fields__) >= {"return_values", "failures"}
    fields = ["local_rank", "pid", "exitcode", "error_file"]
    assert list(api.ProcessFailure.__dataclass_fields__)[:4] == fields


def test_a_context_polls_and_closes_by_what_is_replaced():
    from torch.distributed.elastic.multiprocessing.api import PContext

    assert "self._start()" in inspect.getsource(PContext.start)
    assert "self._poll()" in inspect.getsource(PContext.wait)
    assert "self._close(death_sig=death_sig, timeout=timeout)" in inspect.getsource(PContext.close)
    assert "TORCHELASTIC_SIGNALS_TO_HANDLE" in inspect.getsource(PContext.start)


def test_a_rendezvous_is_made_and_hurried_by_names_of_its_module():
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    assert callable(dynamic_rendezvous._delay)
    assert parameters(dynamic_rendezvous.get_method_name) == ["depth"]
    source = inspect.getsource(dynamic_rendezvous)
    assert "_delay(seconds" in source
    assert "get_method_name()" in source


def test_a_rendezvous_keeps_its_store_by_names_that_are_set(tmp_path):
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    meeting = RendezvousParameters(
        backend="c10d",
        endpoint=str(tmp_path / "meet"),
        run_id="run",
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",
        store_type="file",
        last_call_timeout=1,
        keep_alive_interval=1,
    )
    handler = registry.get_rendezvous_handler(meeting)
    assert handler._bootstrap_store_info is None
    assert handler._shared_tcp_store_server is None
    assert parameters(handler._create_tcp_store_server) == ["master_addr", "master_port"]
    assert parameters(handler.next_rendezvous) == []


def test_a_store_takes_a_socket_that_listens_already():
    from flyte_jupyter.engines.pytorch.agent import HOST, loopback_store

    store = loopback_store()
    store.set("key", "value")
    assert torch.distributed.TCPStore(HOST, store.port, is_master=False).get("key") == b"value"


def test_a_limit_of_collectives_is_read_where_it_is_set(monkeypatch):
    from datetime import timedelta

    from torch.distributed import constants
    from torch.distributed import distributed_c10d as c10d

    from flyte_jupyter.engines.pytorch.node import _limit_collectives

    for module in (constants, c10d):
        monkeypatch.setattr(module, "default_pg_nccl_timeout", timedelta(seconds=1))
    _limit_collectives(77)
    limit = timedelta(seconds=77)
    assert constants.default_pg_nccl_timeout == c10d.default_pg_nccl_timeout == limit
    assert c10d._get_default_timeout("nccl") == limit


def test_the_plugin_has_a_hint_for_signals_after_its_first_sentence():
    import signal

    from flyte_jupyter.engines.pytorch.failures import hint

    assert hint(-signal.SIGKILL).startswith("The process likely exceeded its memory limit")
    assert "NCCL" in hint(-signal.SIGABRT)
