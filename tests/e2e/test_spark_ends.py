"""What Spark refuses, and what is left of a Spark cluster when its kernel goes."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.e2e.test_spark import PATIENCE, SPARK, jvms
from tests.notebook import Notebook, notebook, task

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Notebook:
    with notebook(tmp_path_factory.mktemp("refused"), SPARK) as made:
        made.run("CONF['spark.executor.instances'] = '1'")
        yield made


def refused(book: Notebook, conf: str) -> str:
    """Declare an environment, run a cell in it, and return the one line that it fails with."""
    book.run(f'env = flyte.TaskEnvironment(name="refused", plugin_config=Spark(spark_conf={conf}))')
    error = book.fail(task("spark.range(1).count()"), PATIENCE)
    assert "\n" not in error.value
    assert "org.apache.spark.deploy" not in error.traceback
    return error.value


def test_a_setting_that_spark_rejects_is_said_in_its_words(book):
    said = refused(book, "{**CONF, 'spark.serializer': 'no.such.Class'}")
    assert "Spark made no session" in said
    assert "no.such.Class" in said
    assert "no.such.Class" in book.fail(task("1"), PATIENCE).value, "it stays so"
    book.run("env = flyte.TaskEnvironment(name='refused', plugin_config=Spark(spark_conf=CONF))")
    cell = book.run(task("spark.range(3).count()"), timeout=PATIENCE)
    assert cell.result == "3"
    book.run("%flyte down env")


def test_an_option_that_the_jvm_rejects_is_said_in_its_words(book):
    said = refused(book, "{**CONF, 'spark.driver.extraJavaOptions': '-XX:MaxHeapSize=nonsense'}")
    assert "the driver's JVM did not start" in said
    assert "MaxHeapSize" in said
    book.run("%flyte down env")


def test_an_option_that_only_executors_reject_is_said_in_their_words(book):
    conf = "{**CONF, 'spark.executor.extraJavaOptions': '-XX:MaxHeapSize=nonsense'}"
    said = refused(book, conf)
    assert "Spark's executors end before they have begun" in said
    assert "Invalid maximum heap size: -XX:MaxHeapSize=nonsense" in said
    assert book.task("1 + 1").result == "2", "which needs no executor"
    assert book.fail(task("spark.range(1).toPandas()"), PATIENCE).value == said, "it stays so"
    book.run("%flyte down env")


def test_what_cannot_be_is_refused_before_anything_starts(book):
    for conf, words in (
        ("{'spark.executor.instances': '0'}", "whole number of at least 1"),
        ("{'spark.executor.memory': '9999g'}", "more memory than this machine has"),
        ("{'spark.executor.memory': 'lots'}", "must be a size"),
    ):
        assert words in refused(book, conf)
        assert not book.processes()


def test_no_java_is_said_with_the_command_that_gets_one(book, tmp_path):
    book.run("import os\nbefore = os.environ['PATH'], os.environ.pop('JAVA_HOME', None)")
    book.run(f"os.environ['PATH'] = {str(tmp_path)!r}")
    assert "Spark needs Java 17 or later" in refused(book, "CONF")
    book.run("os.environ['PATH'] = before[0]\nif before[1]: os.environ['JAVA_HOME'] = before[1]")


def test_a_killed_kernel_takes_every_jvm_with_it(tmp_path):
    with notebook(tmp_path, SPARK) as made:
        body = "spark.sparkContext.parallelize(range(2), 2).map(lambda x: x).collect()"
        made.run(task(body), timeout=PATIENCE)
        owner = made.pid
        assert len(jvms(made, "spark")) == 6  # master, 2 workers, 2 executors, the driver's
        made.kill()
        assert leaks.until(lambda: not list(leaks.marked(owner)), leaks.PATIENCE)
        assert not [folder for folder in leaks.folders() if folder.name.startswith(f"{owner}-")]


def test_a_cluster_that_is_still_starting_goes_too(tmp_path):
    with notebook(tmp_path, SPARK) as made:
        made.submit(task("spark.range(1).count()"))
        owner = made.pid
        assert leaks.until(lambda: jvms(made, "spark"), PATIENCE)
        made.kill()
        assert leaks.until(lambda: not list(leaks.marked(owner)), leaks.PATIENCE)
