"""Several engines at once, in one notebook and on whatever this machine has."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.notebook import notebook, task

for name in ("distributed", "ray", "pyspark", "torch"):
    pytest.importorskip(name)

pytestmark = pytest.mark.timeout(500)
LONG = 240

DECLARE = """\
import flyte
from flyteplugins.dask import Dask, WorkerGroup
from flyteplugins.pytorch import Elastic
from flyteplugins.ray import RayJobConfig, WorkerNodeConfig
from flyteplugins.spark import Spark
with_dask = flyte.TaskEnvironment(
    name="with_dask", plugin_config=Dask(workers=WorkerGroup(number_of_workers=2)))
with_ray = flyte.TaskEnvironment(name="with_ray", plugin_config=RayJobConfig(worker_node_config=[
    WorkerNodeConfig(group_name="workers", replicas=1, ray_start_params={"num-cpus": "1"})]))
with_spark = flyte.TaskEnvironment(name="with_spark", plugin_config=Spark(spark_conf={
    "spark.executor.instances": "1", "spark.executor.memory": "512m",
    "spark.driver.memory": "600m", "spark.sql.shuffle.partitions": "2"}))
with_torch, more_torch = (
    flyte.TaskEnvironment(name=name, plugin_config=Elastic(nnodes=1, nproc_per_node=2))
    for name in ("with_torch", "more_torch"))
"""
DASK = """
from distributed import Client
client = Client()
n = sum(client.gather(client.map(abs, range(10))))
"""
RAY = "import ray\nf = ray.remote(lambda x: x)\nn = sum(ray.get([f.remote(x) for x in range(10)]))"
SPARK = "n = spark.range(10).groupBy().sum().collect()[0][0]"
TORCH = """
import torch, torch.distributed as dist
dist.init_process_group()
total = torch.tensor([22.5])
dist.all_reduce(total)
n = int(total)
"""


def test_clusters_of_all_engines_start_and_work_at_once(tmp_path):
    work = {"dask": DASK, "ray": RAY, "spark": SPARK, "torch": TORCH}
    with notebook(tmp_path, DECLARE) as book:
        for engine, body in work.items():
            book.run(task(body, f"-o n --bg {engine}_run", f"with_{engine}"))
        for engine in work:
            assert book.run(f"{engine}_run.result()", timeout=LONG).result == "45"
        status = book.run("%flyte status").result
        assert status.count("ready") == len(work)
        for engine, body in work.items():
            assert book.run(task(f"{body}\nn", "", f"with_{engine}"), timeout=LONG).result == "45"
        book.run("%flyte down with_ray")
        assert book.run(task(f"{SPARK}\nn", "", "with_spark"), timeout=LONG).result == "45"
        pid = book.pid
    assert leaks.until(lambda: not list(leaks.marked(pid)))


def test_two_environments_of_ranks_work_at_once(tmp_path):
    with notebook(tmp_path, DECLARE) as book:
        for name in ("with_torch", "more_torch"):
            other = ({"with_torch", "more_torch"} - {name}).pop()
            meet = f"""
import os, time
open({str(tmp_path)!r} + "/{name}", "w").close()
while not os.path.exists({str(tmp_path)!r} + "/{other}"):
    time.sleep(0.05)
"""
            book.run(task(TORCH + meet, f"-o n --bg run_{name}", name))
        for name in ("with_torch", "more_torch"):
            assert book.run(f"run_{name}.result()", timeout=LONG).result == "45"
