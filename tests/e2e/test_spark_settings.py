"""Settings that a cell gives by itself, and what of them Spark would pass over in silence."""

from __future__ import annotations

import pytest

from tests.e2e.test_spark import PATIENCE, SPARK
from tests.notebook import Notebook, notebook, task

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Notebook:
    """A notebook whose `env` is a Spark environment of one worker, up already."""
    with notebook(tmp_path_factory.mktemp("settings"), SPARK) as made:
        made.run("CONF['spark.executor.instances'] = '1'")
        made.run("env = flyte.TaskEnvironment(name='own', plugin_config=Spark(spark_conf=CONF))")
        made.run(task("spark.range(4).count()"), timeout=PATIENCE)
        yield made


def test_executors_for_which_no_worker_has_room_are_said_with_what_there_is(book):
    body = """
    from pyspark.sql import SparkSession
    spark.stop()
    large = SparkSession.builder.config("spark.executor.memory", "4g").getOrCreate()
    large.range(10).count()
    """
    error = book.fail(task(body), PATIENCE)
    assert error.name == "ClusterError"
    assert "no worker of the cluster has room for an executor" in error.value
    assert "one asks for 4096 MiB, 1 core; a worker has 896 MiB, 1 core" in error.value
    assert "\n" not in error.value
    assert book.run(task("spark.range(7).count()"), timeout=PATIENCE).result == "7"


def test_what_only_a_new_session_could_have_is_said_and_not_pretended(book):
    body = """
    from pyspark.sql import SparkSession
    builder = SparkSession.builder.appName("mine").master("local[*]")
    builder = builder.config("spark.executor.memory", "3g").config("spark.driver.memory", "600m")
    builder = builder.config("spark.jars.packages", "no.such:package:1")
    builder = builder.config("spark.sql.extensions", "no.such.Extension")
    builder = builder.config("spark.sql.catalog.mine", "a.Catalog").config("spark.mine", "1")
    same = builder.config("spark.sql.shuffle.partitions", "3").getOrCreate() is spark
    names = ("spark.executor.memory", "spark.sql.shuffle.partitions", "spark.mine")
    same, [spark.conf.get(name) for name in names]
    """
    cell = book.task(body)
    assert cell.result == "(True, ['512m', '3', '1'])"
    lines = cell.stderr.splitlines()
    start = "SparkSession.builder: "
    assert [line.removeprefix(start).partition(" ")[0] for line in lines] == [
        "spark.executor.memory",
        "spark.jars.packages",
        "spark.master",
        "spark.sql.extensions",
    ]
    assert "put it into Spark(spark_conf=...)" in lines[0]
    assert "the master is the cluster's own" in lines[2]
    assert not book.task(body).stderr, "once is enough"


def test_tables_go_with_their_catalog_and_leave_the_notebooks_folder_alone(book):
    body = 'spark.range(5).write.saveAsTable("numbers")\nspark.table("numbers").count()'
    assert book.task(body).result == "5"
    book.run("%flyte restart env", timeout=PATIENCE)
    assert book.run(task(body), timeout=PATIENCE).result == "5"
    assert book.value("__import__('os').listdir()") == []


DYNAMIC = """
allocation = {"enabled": "true", "minExecutors": "1", "maxExecutors": "2"}
allocation = {f"spark.dynamicAllocation.{key}": value for key, value in allocation.items()}
settings = {**CONF, **allocation, "spark.shuffle.service.enabled": "true"}
dynamic = flyte.TaskEnvironment(name="dynamic", plugin_config=Spark(spark_conf=settings))
"""


def test_executors_come_as_they_are_needed_and_need_no_shuffle_service(book):
    book.run(DYNAMIC)
    body = """
    import os, time
    def where(x):
        time.sleep(0.3)
        return os.getppid(), x
    found = set()
    while len(found) < 2:
        pairs = spark.sparkContext.parallelize(range(16), 8).map(where).groupByKey(2)
        found |= {parent for parent, _ in pairs.collect()}
    """
    cell = book.run(task(body, environment="dynamic"), timeout=PATIENCE)
    assert "spark.shuffle.service.enabled'] is not honoured" in cell.stderr
    book.run("%flyte down dynamic")


def test_pages_that_the_session_has_not_got_are_no_link(book):
    bare = "{**CONF, 'spark.ui.enabled': 'false'}"
    book.run(f"bare = flyte.TaskEnvironment(name='bare', plugin_config=Spark(spark_conf={bare}))")
    book.run("%flyte up bare", timeout=PATIENCE)
    shown = str(book.run("%flyte dashboard bare").result)
    assert "Spark master: http" in shown
    assert "Spark jobs" not in shown
    book.run("%flyte down bare")
