"""What a Spark environment declares for its executors, as tasks find it there."""

from __future__ import annotations

import sys

import pytest

from tests import leaks
from tests.e2e.test_spark import PATIENCE
from tests.notebook import Notebook, notebook, task

pytestmark = pytest.mark.timeout(400)
SECRET = "spark-never-shown"
DECLARE = """\
import flyte
from flyteplugins.spark import Spark
env = flyte.TaskEnvironment(
    name="declared", env_vars={{"COLOUR": "red"}}, secrets=["api-key"],
    plugin_config=Spark(executor_path={python!r}, spark_conf={{
        "spark.executor.instances": "1", "spark.executor.cores": "1",
        "spark.executor.memory": "512m", "spark.driver.memory": "600m"}}))"""
LOOK = """
def look(name):
    import os
    return os.environ.get(name)
names = ["COLOUR", "API_KEY", "STARTED_BY"]
there = dict(zip(names, spark.sparkContext.parallelize(names, 1).map(look).collect()))
here = {name: look(name) for name in names}
for found in there, here:
    found["API_KEY"] = len(found["API_KEY"])
"""


@pytest.fixture(scope="module")
def declared(tmp_path_factory) -> Notebook:
    """A notebook whose `env` has a Python of its own for executors, a variable and a secret."""
    folder = tmp_path_factory.mktemp("declared")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nSTARTED_BY=wrapper exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    declare = DECLARE.format(python=str(python))
    with notebook(folder, declare, env={"API_KEY": SECRET}) as book:
        book.run(task(LOOK, "-o there,here"), timeout=PATIENCE)
        yield book


def test_variables_and_secrets_are_in_executors_as_in_the_driver(declared):
    there, here = declared.value("there"), declared.value("here")
    assert (there["COLOUR"], here["COLOUR"]) == ("red", "red")
    assert (there["API_KEY"], here["API_KEY"]) == (len(SECRET), len(SECRET))


def test_the_python_of_executors_is_the_one_that_is_named(declared):
    assert declared.value("there")["STARTED_BY"] == "wrapper"
    assert declared.value("here")["STARTED_BY"] is None


def test_a_secret_is_in_no_file_no_command_line_and_no_output(declared):
    for log in ("worker-0", "master-0", "driver"):
        declared.run(f"%flyte logs env {log} -n 0")
    assert SECRET not in "".join(cell.shown for cell in declared.cells.values())
    for folder in leaks.folders():
        for path in folder.rglob("*"):
            if path.is_file():
                assert SECRET.encode() not in path.read_bytes(), path
    for process, _ in leaks.marked(declared.pid):
        assert SECRET not in " ".join(process.cmdline())
