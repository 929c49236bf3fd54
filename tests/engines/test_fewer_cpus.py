"""Engines on a machine of whose CPUs the notebook may use only one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to CPUs"
)

BOUND = """\
import os, warnings
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
warnings.simplefilter("ignore")
import flyte, json
from flyte_jupyter.engines.registry import engine_for
{config}
asking, sharing = config(2), config(None)
engine = engine_for(asking)
shares = [dict(role.args) for role in engine.describe(sharing, None).roles if role.scalable]
print(json.dumps([engine.remarks(asking), engine.remarks(sharing), shares]))
"""
DASK = """
from flyteplugins.dask import Dask, WorkerGroup
def config(cpus):
    resources = flyte.Resources(cpu=cpus) if cpus else None
    return Dask(workers=WorkerGroup(number_of_workers=2, resources=resources))
"""
RAY = """
from flyteplugins.ray import RayJobConfig, WorkerNodeConfig
def config(cpus):
    requests = flyte.Resources(cpu=cpus) if cpus else None
    group = WorkerNodeConfig(group_name="workers", replicas=2, requests=requests)
    return RayJobConfig(worker_node_config=[group])
"""
SPARK = """
from flyteplugins.spark import Spark
def config(cpus):
    conf = {"spark.executor.cores": str(cpus)} if cpus else {}
    return Spark(spark_conf={"spark.executor.instances": "2", **conf})
"""
ASKED = "4 CPUs are asked for and this machine has 1"


@pytest.mark.parametrize(
    ("config", "said", "share"),
    [
        (DASK, f"{ASKED}; the workers share that", "threads"),
        (RAY, f"{ASKED}; Ray schedules by what was asked for", "cpus"),
        (SPARK, "2 executors run 2 tasks each at a time, and share this machine's 1 core", "cores"),
    ],
    ids=["dask", "ray", "spark"],
)
def test_what_is_given_is_said_in_one_line_and_else_shared(config, said, share):
    code = BOUND.format(config=config)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asking, sharing, shares = json.loads(done.stdout)
    assert asking == [said]
    assert sharing == []
    assert [args[share] for args in shares] == [1]
