"""A resolver that the configuration names: its secrets reach every process, and no eye."""

from __future__ import annotations

import hashlib

import pytest

from tests import leaks
from tests.notebook import notebook, task

CONFIG = 'c.FlyteJupyter.secret_resolver = "vault:ask"\n'
VAULT = """
import pathlib, threading
def ask(group, key):
    print("the vault is asked", flush=True)
    with open("asked", "a") as file:
        file.write(f"{group} {key} {threading.current_thread().name}\\n")
    if key == "sealed":
        raise PermissionError("the seal is token-never-shown")
    number = len(pathlib.Path("asked").read_text().splitlines())
    return {"api-key": f"token-{number}-never-shown"}.get(key)
"""
DASK = """\
import flyte
from flyteplugins.dask import Dask, WorkerGroup
def declare(workers, secrets):
    plugin = Dask(workers=WorkerGroup(number_of_workers=workers))
    return flyte.TaskEnvironment(name="dask", plugin_config=plugin, secrets=secrets)
token = flyte.Secret(key="api-key", group="team", as_env_var="VAULT_TOKEN")
env = declare(2, token)
"""
HASHES = """
import hashlib, os
from distributed import Client
def hashed():
    import hashlib, os
    return hashlib.sha256(os.environ["VAULT_TOKEN"].encode()).hexdigest()
client = Client()
client.wait_for_workers(2, timeout=30)
hashes = [hashed(), *client.run(hashed).values()]
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A notebook beside a vault, and a profile that names it."""
    home = tmp_path_factory.mktemp("secrets")
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(CONFIG)
    work = home / "work"
    work.mkdir()
    (work / "vault.py").write_text(VAULT)
    with notebook(work, DASK, env={"IPYTHONDIR": str(profile.parent)}) as book:
        book.asked = lambda: (work / "asked").read_text().splitlines()
        yield book


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_secret_of_the_resolver_is_in_the_driver_and_on_all_workers(book):
    book.task(HASHES, "-o hashes")
    assert book.value("hashes") == [sha("token-1-never-shown")] * 3


def test_the_resolver_is_asked_once_for_many_cells(book):
    before = book.process("driver").pid
    cell = book.task(HASHES, "-o hashes")
    assert book.value("hashes") == [sha("token-1-never-shown")] * 3
    assert "anew" not in cell.stderr
    book.run("env = declare(3, token)\n%flyte up env")
    book.until(lambda: len(book.processes("worker")) == 3, what="three workers")
    book.task(HASHES, "-o hashes")
    assert set(book.value("hashes")) == {sha("token-1-never-shown")}
    assert book.process("driver").pid == before
    assert book.asked() == ["team api-key MainThread"]


def test_a_secret_is_shown_nowhere(book):
    book.fail(task("raise ValueError"))
    book.fail(task("import os\nos._exit(1)"))
    book.task("import os\nset_there = 'VAULT_TOKEN' in os.environ", "-o set_there")
    assert book.value("set_there") is True
    for line in (
        *("%flyte status", "%flyte status env", "%flyte runs", "%flyte env", "%flyte doctor"),
        *("%flyte logs env", "%flyte logs env worker-0", "%flyte logs env scheduler-0"),
        "%config FlyteJupyter",
    ):
        book.run(line)
    book.run(
        "session = get_ipython()._flyte_jupyter.session\n"
        "cluster = session.clusters['dask']\n"
        "print(env, session, cluster, vars(cluster), cluster.spec.env, list(session.runs))"
    )
    assert "never-shown" not in "".join(cell.shown for cell in book.cells.values())
    for folder in leaks.folders():
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"never-shown" not in path.read_bytes(), path
    for process in book.processes():
        assert "never-shown" not in " ".join(process.cmdline())


def test_a_resolver_that_raises_is_one_line_and_the_cluster_runs_on(book):
    driver = book.process("driver").pid
    book.run("env = declare(3, 'sealed')")
    cell = book.wait(book.submit(task("1")))
    assert cell.error.value.startswith(
        "the secret 'sealed' of dask cannot be had: vault:ask raised PermissionError. To see why:"
    )
    assert cell.stdout == "the vault is asked\n", "in the cell that asks"
    assert "never-shown" not in cell.shown
    assert cell.shown.count("\n") == 1, "what it printed, and one line"
    book.run("env = declare(3, token)")
    assert book.task("import os\nprint(os.getpid())").stdout == f"{driver}\n"


def test_a_cluster_after_the_first_has_another_token(book):
    asked = len(book.asked())
    book.run("env = declare(2, token)\n%flyte down env")
    book.task(HASHES, "-o hashes")
    assert book.value("hashes") == [sha(f"token-{asked + 1}-never-shown")] * 3
    book.run("%flyte restart env")
    book.task(HASHES, "-o hashes")
    assert book.value("hashes") == [sha(f"token-{asked + 1}-never-shown")] * 3
    assert len(book.asked()) == asked + 1
