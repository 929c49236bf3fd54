"""Spark: how soon a cluster is of use, what it weighs, what a cell costs, how soon it is gone."""

from __future__ import annotations

from statistics import median

from tests.bench.ending import kill, seconds_to_nothing, shut_down
from tests.bench.memory import held, tree
from tests.bench.notebook import PLAIN, Notebook, in_turns, with_extension
from tests.bench.rows import Row, duration, size, spread

_DECLARE = """\
import flyte
from flyteplugins.spark import Spark
spark_env = flyte.TaskEnvironment(name="spark_env", plugin_config=Spark(spark_conf={
    "spark.executor.instances": "2", "spark.executor.cores": "1",
    "spark.executor.memory": "1g", "spark.sql.shuffle.partitions": "4"}))
"""
_WORK = """\
import time
while spark._jsc.sc().getExecutorMemoryStatus().size() < 3:
    time.sleep(0.01)
n = spark.range(1000).count()
"""
_OURS = f"%%flyte_task spark_env -o n\n{_WORK}"
_PEER_IMPORT = """\
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
"""
_PEER = f"""\
master = begin("org.apache.spark.deploy.master.Master")
url = re.search(r"spark://\\S+", until(master, "Starting Spark master"))[0]
until(master, "ALIVE")
size = ("--cores", "1", "--memory", "1408M")
workers = [begin("org.apache.spark.deploy.worker.Worker", *size, url) for _ in range(2)]
spark = (SparkSession.builder.master(url).config("spark.executor.memory", "1g")
    .config("spark.sql.shuffle.partitions", "4").getOrCreate())
{_WORK}"""
_STOP_PEER = """\
spark.stop()
for process in (master, *workers):
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    process.wait()
"""
_PEER_NAME = "standalone by hand"
_LEAST = 9
"""Processes that there must be before the end: kernel, members, and a JVM for most of them."""


def spark(quick: bool) -> list[Row]:
    """Measure all of it, in fresh kernels and in turns with a cluster started by hand."""
    return [*_start_and_weigh(1 if quick else 3), *_noop(15 if quick else 60), *_ends(quick)]


def _start_and_weigh(rounds: int) -> list[Row]:
    """Time a cluster of 2 workers from declared to a first count on 2 executors, and weigh it.

    The peer is a master and workers started through PySpark's own scripts, the workers as soon as
    the master stands, and the session at once after them. Its imports do not count, nor do ours.
    """
    ours, peer, weights = [], [], []
    for _ in range(rounds):
        with Notebook() as notebook:
            before = held([notebook.pid])
            notebook.run("%load_ext flyte_jupyter")
            notebook.run(_DECLARE)
            ours.append(notebook.run(_OURS).seconds)
            mine = _weight(notebook, before)
        with Notebook() as notebook:
            before = held([notebook.pid])
            notebook.run(_PEER_IMPORT)
            peer.append(notebook.run(_PEER).seconds)
            weights.append((mine, _weight(notebook, before)))
            notebook.run(_STOP_PEER)
    ratio = median(ours) / median(peer)
    their = f"{spread(peer)} ({_PEER_NAME})"
    name = "Spark: declared to first count(), 2 workers"
    memory, their_memory = (median(w[who][0] for w in weights) for who in (0, 1))
    count, their_count = (median(w[who][1] for w in weights) for who in (0, 1))
    return [
        Row(name, spread(ours), their, ratio, "<= 1.15", ratio <= 1.15),
        Row(
            "Spark: memory of a cluster of 2 workers",
            size(memory),
            f"{size(their_memory)} ({_PEER_NAME})",
            memory / their_memory,
        ),
        Row(
            "Spark: processes of a cluster of 2 workers",
            f"{count:.0f}",
            f"{their_count:.0f} ({_PEER_NAME})",
            count / their_count,
        ),
    ]


def _weight(notebook: Notebook, before: int) -> tuple[int, int]:
    pids = tree(notebook.pid)
    return held(pids) - before, len(pids) - 1


def _noop(rounds: int) -> list[Row]:
    """Time a cell that does nothing in a Spark environment against one in a plain environment."""
    cells = {
        "plain": "%%flyte_task plain_env\npass",
        "spark": "%%flyte_task spark_env\npass",
    }
    with with_extension() as notebook:
        notebook.run(f"{PLAIN}\n{_DECLARE}")
        notebook.run(_OURS)
        times = {name: median(found) for name, found in in_turns(notebook, cells, rounds).items()}
    more = times["spark"] - times["plain"]
    name = f"Spark: warm no-op cell, over a plain environment's {duration(times['plain'])}"
    return [Row(name, duration(more), "", None, "<= 2 ms", more <= 0.002)]


def _ends(quick: bool) -> list[Row]:
    """Time the end of a kernel with a Spark cluster, to no process and no folder."""
    rounds = 1 if quick else 3
    rows = []
    for name, end in (("kernel SIGKILL", kill), ("clean shutdown", shut_down)):
        times = [seconds_to_nothing(end, (_DECLARE, _OURS), _LEAST) for _ in range(rounds)]
        met = max(times) <= 5
        rows.append(Row(f"Spark: {name} to no process", spread(times), "", None, "<= 5 s", met))
    return rows
