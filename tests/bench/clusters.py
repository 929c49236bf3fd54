"""A small cluster of each engine, and the same by other means: the cells that make and use them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """A cluster that a notebook declares.

    Parameters
    ----------
    engine, shape
        What a row says of it.
    environment
        The variable, and the environment's own name.
    declare
        The cell that imports and declares.
    use
        The cell that starts it, and ends when it has done a little work.
    occupy
        A cell that works for ever, in the driver and beyond; it prints when all of it does.
    least
        Processes that there are at least while it stands, the kernel among them.
    grow
        Arguments of `%flyte scale` that change its size; empty where there are none.
    """

    engine: str
    shape: str
    environment: str
    declare: str
    use: str
    occupy: str
    least: int
    grow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """The same cluster as a notebook makes it without us.

    Parameters
    ----------
    name
        What a row says of it.
    imports, use, stop
        Cells: what need not be waited for again, then the same work as ours, then its end.
    """

    name: str
    imports: str
    use: str
    stop: str


# A process in a session of its own, such as a task may start, must not escape.
_ESCAPE = """def escape():
    import subprocess
    subprocess.Popen(["sleep", "600"], start_new_session=True)
"""
_FOR_EVER = "print('occupied', flush=True)\nimport time\ntime.sleep(600)\n"

PLAIN = Cluster(
    "plain",
    "a driver",
    "plain_env",
    'import flyte\nplain_env = flyte.TaskEnvironment(name="plain_env")',
    "%%flyte_task plain_env\npass",
    f"%%flyte_task plain_env\n{_ESCAPE}escape()\n{_FOR_EVER}",
    4,
)

_DASK_WORK = "client.wait_for_workers({n})\ntotal = sum(client.gather(client.map(abs, range(100))))"


def dask(workers: int) -> Cluster:
    """Return a scheduler and some workers."""
    client = "%%flyte_task dask_env{}\nfrom distributed import Client\nclient = Client()\n"
    return Cluster(
        "Dask",
        f"{workers} workers",
        "dask_env",
        "import flyte\n"
        "from flyteplugins.dask import Dask, WorkerGroup\n"
        'dask_env = flyte.TaskEnvironment(name="dask_env", '
        f"plugin_config=Dask(workers=WorkerGroup(number_of_workers={workers})))",
        client.format(" -o total") + _DASK_WORK.format(n=workers),
        client.format("") + f"{_ESCAPE}client.run(escape)\nescape()\n{_FOR_EVER}",
        workers + 3,
        ("1", "2", "3", "4", "5"),
    )


LOCAL_CLUSTER = Peer(
    "LocalCluster",
    "from distributed import Client, LocalCluster",
    "cluster = LocalCluster(n_workers=4, processes=True, threads_per_worker=1)\n"
    f"client = Client(cluster)\n{_DASK_WORK.format(n=4)}",
    "client.close(); cluster.close()",
)

_RAY_WORK = """@ray.remote
def work(x):
    return x * x
total = sum(ray.get([work.remote(x) for x in range(4)]))
"""
RAY = Cluster(
    "Ray",
    "a head and 2 nodes",
    "ray_env",
    """import flyte
from flyteplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig
def node(cpus):
    return {"num-cpus": cpus, "object-store-memory": str(150 * 2**20)}
ray_env = flyte.TaskEnvironment(name="ray_env", plugin_config=RayJobConfig(
    head_node_config=HeadNodeConfig(ray_start_params=node("1")),
    worker_node_config=[
        WorkerNodeConfig(group_name="workers", replicas=2, ray_start_params=node("1"))],
))""",
    f"%%flyte_task ray_env -o total\nimport ray\n{_RAY_WORK}",
    f"%%flyte_task ray_env\nimport ray\n{_ESCAPE}escape()\n"
    f"ray.get([ray.remote(escape).remote() for _ in range(3)])\n{_FOR_EVER}",
    12,
    ("1", "2", "3"),
)
RAY_CLUSTER = Peer(
    "cluster_utils",
    "import ray\nfrom ray.cluster_utils import Cluster",
    f"""cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1}})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address)
{_RAY_WORK}""",
    "ray.shutdown()\ncluster.shutdown()",
)

_SPARK_WORK = """\
import time
while spark._jsc.sc().getExecutorMemoryStatus().size() < 3:
    time.sleep(0.01)
n = spark.range(1000).count()
"""
SPARK = Cluster(
    "Spark",
    "2 workers",
    "spark_env",
    """\
import flyte
from flyteplugins.spark import Spark
spark_env = flyte.TaskEnvironment(name="spark_env", plugin_config=Spark(spark_conf={
    "spark.executor.instances": "2", "spark.executor.cores": "1",
    "spark.executor.memory": "1g", "spark.sql.shuffle.partitions": "4"}))
""",
    f"%%flyte_task spark_env -o n\n{_SPARK_WORK}",
    f"%%flyte_task spark_env\n{_ESCAPE}escape()\n"
    "spark.sparkContext.parallelize(range(2), 2).foreach(lambda _: escape())\n" + _FOR_EVER,
    9,
    ("1", "2", "3"),
)
SPARK_STANDALONE = Peer(
    "standalone by hand",
    """\
import os, re, signal, subprocess
import pyspark
from pyspark.sql import SparkSession
def begin(*arguments):
    command = os.path.join(os.path.dirname(pyspark.__file__), "bin", "spark-class")
    where = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
    return subprocess.Popen([command, *arguments[:1], *where, *arguments[1:]], text=True,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, start_new_session=True)
def until(process, text):
    return next(line for line in process.stderr if text in line)
""",
    f"""\
master = begin("org.apache.spark.deploy.master.Master")
url = re.search(r"spark://\\S+", until(master, "Starting Spark master"))[0]
until(master, "ALIVE")
size = ("--cores", "1", "--memory", "1408M")
workers = [begin("org.apache.spark.deploy.worker.Worker", *size, url) for _ in range(2)]
spark = (SparkSession.builder.master(url).config("spark.executor.memory", "1g")
    .config("spark.sql.shuffle.partitions", "4").getOrCreate())
{_SPARK_WORK}""",
    """\
spark.stop()
for process in (master, *workers):
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    process.wait()
""",
)

ALL_REDUCE = """import torch
import torch.distributed as dist
dist.init_process_group()
total = torch.ones(1)
dist.all_reduce(total)
assert float(total) == dist.get_world_size()
"""
FOR_EVER = _FOR_EVER


def pytorch(environment: str = "two", ranks: int = 2, nodes: str = "1") -> Cluster:
    """Return some ranks on each node; how many nodes, or a range that can be scaled."""
    return Cluster(
        "PyTorch",
        f"{ranks} ranks",
        environment,
        "import flyte\n"
        "from flyteplugins.pytorch import Elastic\n"
        f'{environment} = flyte.TaskEnvironment(name="{environment}", '
        f"plugin_config=Elastic(nnodes={nodes!r}, nproc_per_node={ranks}))",
        f"%%flyte_task {environment} -o total\n{ALL_REDUCE}",
        f"%%flyte_task {environment}\n{_ESCAPE}escape()\n{ALL_REDUCE}{_FOR_EVER}",
        6,
        ("1", "2") if ":" in nodes else (),
    )


ENGINES = (PLAIN, dask(2), RAY, SPARK, pytorch())
"""What whatever does not depend on an engine is measured on."""
