"""A real Dask cluster on this machine: it works, and nobody else can use it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import flyte
import psutil
import pytest
from flyteplugins.dask import Dask, WorkerGroup

from flyte_jupyter import CellTask, ClusterLost, Session
from tests import leaks

SMALL = flyte.Resources(cpu=1, memory="1Gi")


def environment(workers):
    config = Dask(workers=WorkerGroup(number_of_workers=workers, resources=SMALL))
    return flyte.TaskEnvironment(name="dask_env", plugin_config=config)


@pytest.fixture(scope="module")
def session():
    made = Session(namespace={"env": environment(2)})
    made.ready(made.up("env"))
    yield made
    made.close()


@pytest.fixture
def own_session():
    made = Session(namespace={"env": environment(1)})
    yield made
    made.close()


def run(session, code, *returns):
    return session.wait(session.submit("env", CellTask(code, returns=returns)))


def processes(cluster):
    supervisor = psutil.Process(int((cluster.folder / "supervisor").read_text().split()[0]))
    return [supervisor, *supervisor.children(recursive=True)]


async def ask_who_it_is(address, **arguments):
    from distributed.comm import connect

    comm = await connect(address, timeout=2, **arguments)
    try:
        await comm.write({"op": "identity"})
        async with asyncio.timeout(2):
            return await comm.read()
    finally:
        comm.abort()


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.status, answer.url, answer.read().decode()


def test_a_client_without_an_address_finds_the_cluster(session):
    code = (
        "from distributed import Client\n"
        "with Client() as client:\n"
        "    address = client.scheduler.address\n"
        "    workers = sorted(w['name'] for w in client.scheduler_info()['workers'].values())\n"
        "    total = sum(client.gather(client.map(lambda x: x * x, range(10))))"
    )
    found = run(session, code, "address", "workers", "total")
    assert found["address"].startswith("tls://127.0.0.1:")
    assert found["workers"] == ["worker-0", "worker-1"]
    assert found["total"] == 285


def test_workers_have_the_threads_and_memory_that_were_asked_for(session):
    code = (
        "from distributed import Client\n"
        "with Client() as client:\n"
        "    got = [(w['nthreads'], w['memory_limit'])\n"
        "           for w in client.scheduler_info()['workers'].values()]"
    )
    assert run(session, code, "got") == [(1, 2**30)] * 2


def test_everything_that_listens_does_so_on_loopback(session):
    cluster = session.cluster("env")
    for process in processes(cluster):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1", process.cmdline()


def test_keys_are_for_their_owner_alone(session):
    folder = session.cluster("env").folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    for log in (folder / "logs").iterdir():
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert "BEGIN" not in log.read_text()


def test_neither_the_token_nor_the_key_is_in_a_command_line(session):
    cluster = session.cluster("env")
    token = urlsplit(cluster.links["Dask dashboard"]).path.split("/")[1]
    assert len(token) >= 20
    for process in processes(cluster):
        assert token not in " ".join(process.cmdline())


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_a_client_without_the_certificate_is_refused(session, scheme):
    from distributed.security import Security

    address = session.cluster("env").status["facts"]["scheduler"][0]["address"]
    where = address.replace("tls://", f"{scheme}://")
    arguments = Security().get_connection_args("client")
    if scheme == "tls":
        import ssl

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        arguments = {"ssl_context": context}
    with pytest.raises((OSError, TypeError)):  # a TimeoutError is an OSError
        await ask_who_it_is(where, **arguments)


@pytest.mark.parametrize("path", ["/status", "/", "/info/main/workers.html", "/wrong/status"])
def test_the_dashboard_is_not_there_for_who_lacks_the_token(session, path):
    parts = urlsplit(session.cluster("env").links["Dask dashboard"])
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"http://{parts.netloc}{path}")
    assert caught.value.code in (403, 404)
    caught.value.close()


def test_the_workers_pages_are_not_there_either(session):
    cluster = session.cluster("env")
    pids = [m["pid"] for m in cluster.members() if m["role"] == "worker"]
    refused = 0
    for pid in pids:
        for connection in psutil.Process(pid).net_connections(kind="inet"):
            if connection.status != psutil.CONN_LISTEN:
                continue
            with pytest.raises((urllib.error.HTTPError, OSError)) as caught:
                get(f"http://127.0.0.1:{connection.laddr.port}/health")
            if isinstance(caught.value, urllib.error.HTTPError):
                assert caught.value.code in (403, 404)
                caught.value.close()
            refused += 1
    assert refused >= len(pids)


def test_the_dashboard_is_there_for_who_has_the_token(session):
    status, url, text = get(session.cluster("env").links["Dask dashboard"])
    assert status == 200
    assert urlsplit(url).path.endswith("/status")
    assert "bokeh" in text.lower()


def test_the_same_environment_with_more_workers_scales_the_cluster(own_session):
    session = own_session
    first = session.ready(session.up("env"))
    driver = first.driver
    session.namespace["env"] = environment(2)
    code = (
        "from distributed import Client\n"
        "with Client() as client:\n"
        "    client.wait_for_workers(2, timeout=60)"
    )
    run(session, code)
    assert session.cluster("env") is first
    assert first.driver == driver
    session.scale("env", 1)
    assert first.summary() == "1 worker"
    os.kill(first.member("worker")["pid"], signal.SIGKILL)
    assert leaks.until(lambda: (first.member("worker") or {}).get("generation") == 2)
    assert leaks.until(lambda: first.summary() == "1 worker")

    os.kill(first.member("scheduler")["pid"], signal.SIGKILL)
    assert leaks.until(lambda: first.state == "failed")
    assert "scheduler-0 ended: killed by SIGKILL" in first.reason
    assert run(session, "x = 1", "x") == 1
    assert session.cluster("env") is not first


def test_a_run_under_way_is_told_that_its_cluster_was_lost(own_session):
    session = own_session
    slow = session.submit("env", CellTask("import time; time.sleep(600)"))
    assert leaks.until(lambda: slow.state == "running")
    os.kill(session.cluster("env").member("scheduler")["pid"], signal.SIGKILL)
    with pytest.raises(ClusterLost, match="scheduler-0 ended: killed by SIGKILL"):
        slow.result(60)
