"""Packages of an image, in the driver and in every process of every engine."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.notebook import Notebook, notebook, task
from tests.wheels import only_index, wheel

DECLARE = """\
import flyte
image = flyte.Image.from_debian_base().with_pip_packages("asked-for", "packaging")
env = flyte.TaskEnvironment(name="plain", image=image.with_env_vars({"COLOUR": "green"}))
"""
BODY = "import asked_for\nfound = asked_for.version"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder in which notebooks of this module look for packages."""
    folder = tmp_path_factory.mktemp("index")
    wheel(folder, "asked-for", "1.0")
    with only_index(folder):
        yield folder


@pytest.fixture(scope="module")
def book(index, tmp_path_factory) -> Notebook:
    with notebook(tmp_path_factory.mktemp("images"), DECLARE) as book:
        yield book


def test_a_task_has_what_the_notebook_has_not(book):
    book.task(BODY, "-o found")
    assert book.value("found") == "1.0"
    assert book.fail("import asked_for").name == "ModuleNotFoundError"


def test_what_a_task_starts_has_it_too(book):
    body = """
    import subprocess, sys
    code = "import asked_for, os; print(asked_for.version, os.environ['COLOUR'])"
    subprocess.check_output([sys.executable, "-c", code]).decode()
    """
    assert book.task(body).result == repr("1.0 green\n")


def test_a_task_function_has_it(book):
    book.run(
        "@env.task\ndef version() -> str:\n    import asked_for\n    return asked_for.version\n"
        "import flyte_jupyter"
    )
    assert book.value("flyte_jupyter.run(version).result()") == "1.0"


def test_another_image_starts_the_cluster_anew(book, index):
    wheel(index, "asked-for", "2.0")
    book.run('image = flyte.Image.from_debian_base().with_pip_packages("asked-for==2.0")')
    book.run('env = flyte.TaskEnvironment(name="plain", image=image)')
    cell = book.task(BODY, "-o found")
    assert "starts anew" in cell.stderr
    assert book.value("found") == "2.0"


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ('"packaging<1"', "packaging<1 is asked for, the kernel has packaging"),
        ('"no-such-package"', "no index has no-such-package"),
        ('"packaging<1", "no-such-package"', "packaging<1 is asked for"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_nothing_runs(book, packages, said):
    book.run(
        f'bad = flyte.TaskEnvironment(name="bad", image=flyte.Image.from_debian_base(name="mine")'
        f".with_pip_packages({packages}))"
    )
    before = leaks.look()
    error = book.fail(task("print('it ran')", environment="bad"))
    assert error.name == "ImageError"
    assert said in error.value
    assert "image 'mine'" in error.value
    assert "\n" not in error.value
    assert not leaks.await_nothing(before)


def test_what_the_notebook_provides_or_the_kernel_has_can_be_let_pass(book):
    book.run(
        'lax = flyte.TaskEnvironment(name="lax", image=flyte.Image.from_debian_base()'
        '.with_pip_packages("no-such-package", "packaging<1"))'
    )
    book.run('%config FlyteJupyter.provided_packages = ["no-such-package"]')
    book.run('%config FlyteJupyter.image_conflicts = "keep"')
    cell = book.task("1", environment="lax")
    assert cell.stderr.count("lax: packaging<1 is asked for, the kernel has packaging") == 1
    book.run("%flyte down lax")


def test_progress_is_shown_where_it_takes_a_while(book, index):
    wheel(index, "another", "1.0")
    book.run("%config FlyteJupyter.progress_after = 0")
    book.run(
        'slow = flyte.TaskEnvironment(name="slow", image=flyte.Image.from_debian_base()'
        '.with_pip_packages("another"))'
    )
    cell = book.run("%flyte up slow")
    assert "Installing collected packages: another" in str(cell.of("update_display_data"))
    assert "slow: packages installed after" in str(cell.of("update_display_data"))
    assert "installing" not in book.run("%flyte down slow").shown


@pytest.fixture
def without_programs(book, tmp_path):
    """The notebook finds no program at all."""
    book.run(f"import os\npath = os.environ['PATH']\nos.environ['PATH'] = {str(tmp_path)!r}")
    yield
    book.run("os.environ['PATH'] = path")


def test_building_says_that_nothing_was_built(book, without_programs):
    for what in ("env", "image"):
        error = book.fail(f"%flyte build {what}")
        assert error.name == "ImageError"
        assert "nothing was built" in error.value
        assert "Docker is not installed" in error.value


def test_building_what_is_no_image_says_so(book):
    book.run('none = flyte.TaskEnvironment(name="none")')
    assert "it has Flyte's own image" in book.fail("%flyte build none").value
    assert "no environment is called 'nothing'" in book.fail("%flyte build nothing").value


# -- every engine -------------------------------------------------------------------------------

ENGINES = {
    "dask": (
        "from flyteplugins.dask import Dask, WorkerGroup\n"
        "config = Dask(workers=WorkerGroup(number_of_workers=2))",
        """
        from distributed import Client
        def version():
            import asked_for
            return asked_for.version
        found = sorted(Client().run(version).values())
        """,
        ["2.0", "2.0"],
    ),
    "ray": (
        "from flyteplugins.ray import RayJobConfig, WorkerNodeConfig\n"
        "config = RayJobConfig(worker_node_config=[WorkerNodeConfig(\n"
        '    group_name="w", replicas=1, ray_start_params={"num-cpus": "1"})])',
        """
        import ray
        @ray.remote
        def version():
            import asked_for
            return asked_for.version
        found = ray.get(version.remote())
        """,
        "2.0",
    ),
    "spark": (
        "from flyteplugins.spark import Spark\n"
        'config = Spark(spark_conf={"spark.executor.instances": "1",\n'
        '    "spark.executor.memory": "512m", "spark.driver.memory": "600m"})',
        """
        def version(_):
            import asked_for
            return asked_for.version
        found = spark.sparkContext.parallelize([1], 1).map(version).collect()
        """,
        ["2.0"],
    ),
    "torch": (
        "from flyteplugins.pytorch import Elastic\nconfig = Elastic(nnodes=1, nproc_per_node=2)",
        """
        import asked_for, torch.distributed as dist
        dist.init_process_group()
        found = [None, None]
        dist.all_gather_object(found, asked_for.version)
        """,
        ["2.0", "2.0"],
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ENGINES)
def test_processes_of_every_engine_have_it(book, index, name):
    declare, body, expected = ENGINES[name]
    pytest.importorskip({"dask": "distributed", "spark": "pyspark"}.get(name, name))
    wheel(index, "asked-for", "2.0")
    book.run(declare)
    book.run('image = flyte.Image.from_debian_base().with_pip_packages("asked-for==2.0")')
    book.run(f'on = flyte.TaskEnvironment(name="{name}", plugin_config=config, image=image)')
    book.run(task(body, "-o found", "on"), timeout=240)
    assert book.value("found") == expected
    book.run(f"%flyte down {name}")


def test_what_rays_runtime_environment_asks_for_is_installed(book, index):
    pytest.importorskip("ray")
    declare, body, expected = ENGINES["ray"]
    wheel(index, "asked-for", "2.0")
    pip = 'RayJobConfig(runtime_env={"pip": ["asked-for==2.0"]}, '
    book.run(declare.replace("RayJobConfig(", pip))
    book.run('on = flyte.TaskEnvironment(name="ray", plugin_config=config)')
    book.run(task(body, "-o found", "on"), timeout=240)
    assert book.value("found") == expected
    book.run("%flyte down ray")
