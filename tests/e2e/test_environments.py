"""What an environment declares holds in its driver and on its workers, or is said not to."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.notebook import notebook, task

DASK = "from flyteplugins.dask import Dask, Scheduler, WorkerGroup\n"
ON_WORKER = """
from distributed import Client
def ask(name):
    import os
    return os.environ.get(name)
client = Client()
found = client.submit(ask, name, pure=False).result()
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    secret = {"MY_TOKEN": "tok-never-shown", "API_KEY": "key-never-shown"}
    with notebook(tmp_path_factory.mktemp("env"), "import flyte", env=secret) as book:
        yield book


def test_variables_of_the_environment_are_in_the_driver(book):
    book.run('env = flyte.TaskEnvironment(name="v", env_vars={"COLOUR": "red"})')
    assert book.task("import os\nos.environ['COLOUR']").result == "'red'"
    assert book.task("!echo $COLOUR").stdout.strip() == "red"


def test_other_variables_start_the_cluster_anew(book):
    book.run('env = flyte.TaskEnvironment(name="v", env_vars={"COLOUR": "red"})')
    book.task("kept = 1", "-r kept")
    book.run('env = flyte.TaskEnvironment(name="v", env_vars={"COLOUR": "blue"})')
    cell = book.task("import os\nos.environ['COLOUR']")
    assert cell.result == "'blue'"
    assert "declared differently now" in cell.stderr
    assert book.fail("kept.get()").name == "RefLost"
    assert len(book.processes("super")) == 1


def test_declaring_the_same_again_changes_nothing(book):
    code = 'env = flyte.TaskEnvironment(name="v", env_vars={"COLOUR": "blue"})'
    book.run(code)
    before = book.task("import os\nprint(os.getpid())").stdout
    book.run(code)
    cell = book.task("import os\nprint(os.getpid())")
    assert (cell.stdout, cell.stderr) == (before, "")


def test_secrets_come_from_the_notebooks_environment_and_are_shown_nowhere(book):
    book.run(
        'env = flyte.TaskEnvironment(name="s", secrets=["api-key", '
        'flyte.Secret(key="token", as_env_var="MY_TOKEN")])'
    )
    body = "import os\nlen(os.environ['API_KEY']), len(os.environ['MY_TOKEN'])"
    assert book.task(body).result == "(15, 15)"
    book.fail(task("raise ValueError"))
    book.fail(task("import os\nos._exit(1)"))
    book.run("%flyte status s")
    book.run("%flyte logs s")
    book.run("repr(env), str(get_ipython()._flyte_jupyter.session.clusters['s'])")
    shown = "".join(cell.shown for cell in book.cells.values())
    assert "never-shown" not in shown
    for folder in leaks.folders():
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"never-shown" not in path.read_bytes(), path
    for process in book.processes():
        assert "never-shown" not in " ".join(process.cmdline())


def test_a_secret_without_a_value_is_named_and_nothing_starts(book):
    book.run('env = flyte.TaskEnvironment(name="n", secrets=["nowhere-to-be-found"])')
    before = len(book.processes("super"))
    error = book.fail(task("1"))
    assert "'nowhere-to-be-found' of n has no value" in error.value
    assert "NOWHERE_TO_BE_FOUND" in error.value
    assert len(book.processes("super")) == before


def test_a_field_that_is_not_honoured_is_named_once(book):
    book.run(
        "env = flyte.TaskEnvironment(\n"
        '    name="f", resources=flyte.Resources(cpu=2), image=flyte.Image.from_debian_base()'
        '.with_apt_packages("x"), interruptible=True)'
    )
    cell = book.task("1")
    for field in ("resources", "image.apt_packages", "interruptible"):
        assert cell.stderr.count(f"f: {field} is not honoured here") == 1
    assert book.task("1").stderr == ""
    book.run("%flyte down f")


@pytest.fixture(scope="module")
def dasked(book):
    """The same notebook, with a Dask environment of odd resources."""
    book.run(
        DASK + "group = WorkerGroup(number_of_workers=2, "
        'resources=flyte.Resources(cpu=3, memory="512Mi"))\n'
        'wide = flyte.TaskEnvironment(name="wide", plugin_config=Dask(workers=group), '
        'env_vars={"COLOUR": "green"}, secrets=["api-key"])'
    )
    book.run("%flyte up wide")
    return book


def test_variables_and_secrets_are_on_the_workers(dasked):
    dasked.run("name = 'COLOUR'")
    dasked.task(ON_WORKER, "-o found", environment="wide")
    assert dasked.value("found") == "green"
    dasked.run("name = 'API_KEY'")
    dasked.task(ON_WORKER + "found = len(found)", "-o found", environment="wide")
    assert dasked.value("found") == 15


def test_resources_of_the_group_limit_its_workers(dasked):
    body = """
    from distributed import Client
    workers = Client().scheduler_info(n_workers=-1)["workers"].values()
    limits = sorted((w["nthreads"], w["memory_limit"]) for w in workers)
    """
    dasked.task(body, "-o limits", environment="wide")
    assert dasked.value("limits") == [(3, 512 * 2**20)] * 2


def test_another_number_of_workers_scales_the_cluster(dasked):
    driver = dasked.task("import os\nprint(os.getpid())", environment="wide").stdout
    dasked.run(
        "group = WorkerGroup(number_of_workers=3, "
        'resources=flyte.Resources(cpu=3, memory="512Mi"))\n'
        'wide = flyte.TaskEnvironment(name="wide", plugin_config=Dask(workers=group), '
        'env_vars={"COLOUR": "green"}, secrets=["api-key"])'
    )
    cell = dasked.task("import os\nprint(os.getpid())", environment="wide")
    assert cell.stdout == driver
    assert "anew" not in cell.stderr
    dasked.until(lambda: len(dasked.processes("worker")) == 3, what="three workers")
    body = """
    from distributed import Client
    client = Client()
    client.wait_for_workers(3, timeout=30)
    """
    dasked.task(body, environment="wide")


def test_an_environment_declared_by_the_magic(book):
    shown = book.run("%flyte env tiny --plugin dask --workers 1 --worker-memory 256Mi").result
    assert "1 scheduler, 1 worker" in shown
    assert "tiny" in book.run("%flyte env").result
    assert book.task("6 * 7", environment="tiny").result == "42"
    book.run("%flyte down tiny")


def test_the_page_of_the_scheduler_is_named(dasked):
    cell = dasked.run("%flyte dashboard wide")
    assert "Dask dashboard" in cell.result
    assert "http" in cell.result


def test_a_plain_cluster_has_no_page(book):
    book.run('env = flyte.TaskEnvironment(name="v")')
    book.task("1")
    assert "has no dashboard" in book.fail("%flyte dashboard env").value
