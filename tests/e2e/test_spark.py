"""Spark clusters: one session under every name, code that reaches executors, members that die."""

from __future__ import annotations

import http.client
import re
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests import leaks
from tests.notebook import Notebook, notebook, task

pytestmark = pytest.mark.timeout(400)
PATIENCE = 180.0
SPARK = """\
import flyte
from flyteplugins.spark import Spark
CONF = {
    "spark.executor.instances": "2", "spark.executor.cores": "1", "spark.executor.memory": "512m",
    "spark.driver.memory": "600m", "spark.sql.shuffle.partitions": "2",
}
env = flyte.TaskEnvironment(
    name="spark", plugin_config=Spark(spark_conf=CONF, hadoop_conf={"my.key": "my value"})
)"""


@pytest.fixture(scope="module")
def spark(tmp_path_factory) -> Notebook:
    """A notebook whose `env` is a Spark environment of two workers, up already."""
    with notebook(tmp_path_factory.mktemp("spark"), SPARK) as book:
        book.run("%flyte up env", timeout=PATIENCE)
        book.run(task("spark.range(4).count()"), timeout=PATIENCE)
        yield book


def jvms(book: Notebook, main: str) -> list[psutil.Process]:
    """Return the JVMs of a notebook's clusters that run a class."""
    found = []
    for process, _ in leaks.marked(book.pid):
        command = leaks_command(process)
        if command and command[0].endswith("java") and any(main in word for word in command):
            found.append(process)
    return found


def leaks_command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# -- the session ----------------------------------------------------------------------------------


def test_every_name_gives_one_and_the_same_session(spark):
    cell = spark.task(
        """
        import flyte
        from pyspark.sql import SparkSession
        same = [SparkSession.builder.getOrCreate(), flyte.ctx().data["spark_session"]]
        all(session is spark for session in same), spark.sparkContext.master[:18]
        """
    )
    assert cell.result == "(True, 'spark://127.0.0.1:')"
    assert not cell.stderr


def test_settings_hold_as_they_would_on_kubernetes(spark):
    cell = spark.task(
        """
        conf = spark.sparkContext.getConf()
        keys = ("spark.executor.memory", "spark.executor.cores", "spark.driver.memory")
        hadoop = spark.sparkContext._jsc.hadoopConfiguration().get("my.key")
        [*map(conf.get, keys), spark.conf.get("spark.sql.shuffle.partitions"), hadoop]
        """
    )
    assert cell.result == "['512m', '1', '600m', '2', 'my value']"


def test_work_is_done_by_an_executor_of_each_worker(spark):
    body = """
    import os, time
    def where(_):
        time.sleep(0.3)
        return os.environ["FLYTE_JUPYTER_CLUSTER"], os.getppid()
    found = set()
    while len(found) < 2:
        found |= set(spark.sparkContext.parallelize(range(4), 4).map(where).collect())
    marks = {mark for mark, _ in found}
    """
    spark.run(task(body, "-o marks"), timeout=PATIENCE)
    assert len(spark.value("marks")) == 1
    assert len(jvms(spark, "CoarseGrainedExecutorBackend")) == 2


def test_the_secret_of_the_cluster_is_not_in_the_sessions_settings(spark):
    cell = spark.task('dict(spark.sparkContext.getConf().getAll())["spark.authenticate.secret"]')
    assert cell.result == "'in the environment'"


def test_a_session_that_a_cell_has_stopped_is_made_anew(spark):
    spark.task("spark.stop()")
    cell = spark.run(task("spark.range(7).count()"), timeout=PATIENCE)
    assert cell.result == "7"


# -- values and functions -------------------------------------------------------------------------


def test_functions_of_the_notebook_reach_the_executors_fresh(spark):
    spark.run("offset = 1\ndef work(x): return x + offset")
    body = "spark.sparkContext.parallelize(range(3), 2).map(work).collect()"
    assert spark.task(body).result == "[1, 2, 3]"
    spark.run("def work(x): return -x * offset")
    assert spark.task(body).result == "[0, -1, -2]"


def test_local_modules_reach_the_executors_and_are_fresh_after_an_edit(spark):
    folder = Path(spark.value("__import__('os').getcwd()"))
    module = folder / "beside_spark.py"
    module.write_text("def scale(x):\n    return 2 * x\n")
    body = (
        "import beside_spark\n"
        "rdd = spark.sparkContext.parallelize([1, 2], 2)\n"
        "rdd.map(beside_spark.scale).collect(), rdd.map(lambda x: beside_spark.scale(x)).sum()"
    )
    assert spark.task(body).result == "([2, 4], 6)"
    module.write_text("def scale(x):\n    return 300 * x\n")
    assert spark.task(body).result == "([300, 600], 900)"
    module.unlink()


def test_pandas_functions_run_over_arrow(spark):
    body = """
    import pandas as pd
    from pyspark.sql.functions import pandas_udf
    @pandas_udf("double")
    def plus(v: pd.Series) -> pd.Series:
        return v + 0.5
    pdf = spark.range(3).select(plus("id").alias("x")).toPandas()
    arrow = spark.conf.get("spark.sql.execution.arrow.pyspark.enabled")
    """
    cell = spark.task(body, "-o pdf,arrow")
    assert not cell.stderr
    assert spark.value("(arrow, list(pdf.x))") == ("true", [0.5, 1.5, 2.5])


def test_a_dataframe_is_a_table_and_can_be_kept_but_not_sent(spark):
    cell = spark.task('df = spark.createDataFrame([(1, "a")], ["n", "s"])\ndf', "-r df")
    shown = cell.of("execute_result")[-1]["data"]
    assert "<td>a</td>" in shown["text/html"]
    assert "|  1|  a|" in shown["text/plain"]
    assert "DataFrame[n: bigint, s: string]" in spark.run("df").result
    assert spark.task("df.count()").result == "1"
    error = spark.fail(task("copy = df", "-o copy"))
    assert "lives in its session" in error.value
    assert "-r" in error.value
    assert "\n" not in error.value


# -- errors, progress, interrupts -----------------------------------------------------------------


def test_an_error_of_the_analysis_is_one_that_the_notebook_can_catch(spark):
    cell = spark.submit(task('spark.range(1).select("nope")'))
    error = spark.wait(cell).error
    assert error.name == "AnalysisException"
    assert "`nope` cannot be resolved" in error.value
    assert "org.apache" not in error.traceback
    assert not cell.stderr
    caught = spark.run(
        "from pyspark.errors import ParseException\n"
        "try:\n    get_ipython().run_cell_magic('flyte_task', 'env', 'spark.sql(\"selec\")')\n"
        "except ParseException as error:\n    print('caught')"
    )
    assert caught.stdout == "caught\n"
    told = spark.run(
        "from pyspark.errors import AnalysisException\n"
        "try:\n    get_ipython().run_cell_magic("
        "'flyte_task', 'env', 'spark.range(1).select(\"nope\")')\n"
        "except AnalysisException as error:\n"
        "    print(error.getCondition(), error.getMessageParameters()['objectName'])\n"
        "    print(str(error).count(error.getCondition()))"
    )
    assert told.stdout == "UNRESOLVED_COLUMN.WITH_SUGGESTION `nope`\n1\n"


def test_an_error_in_an_executor_shows_its_line(spark):
    body = "def fails(x):\n    return 1 / 0\nspark.sparkContext.parallelize([1]).map(fails).sum()"
    error = spark.fail(task(body))
    assert error.name == "PythonException"
    assert "ZeroDivisionError" in error.value
    assert "in fails" in error.value
    assert "org.apache" not in error.traceback


def test_an_error_inside_the_jvm_is_its_message_and_no_frames(spark):
    error = spark.fail(task('spark.sparkContext.textFile("/no/such/file").count()'))
    assert "Input path does not exist: file:/no/such/file" in error.value
    assert "at org.apache" not in error.traceback
    assert "scala." not in error.traceback


def bars(cell) -> list[str]:
    shown = cell.of("display_data", "update_display_data")
    texts = [content["data"].get("text/plain", "") for content in shown]
    return [text for text in texts if text.startswith("Spark:")]


def test_a_long_job_has_a_bar_and_a_short_one_has_none(spark):
    slow = "import time\nspark.sparkContext.parallelize(range(8), 8).map(lambda x: time.sleep(0.6))"
    cell = spark.task(f"{slow}.count()")
    assert re.fullmatch(r"Spark: 1 stage, \d/8 tasks; count", bars(cell)[0])
    assert bars(cell)[-1] == "Spark: 1 stage, 8/8 tasks; done"
    assert not cell.stderr
    assert not bars(spark.task("spark.sparkContext.parallelize([1], 1).count()"))


def test_an_interrupt_cancels_the_job_and_the_session_stays(spark):
    body = """
    import time
    print("in")
    spark.sparkContext.parallelize(range(200), 200).map(lambda x: time.sleep(1)).collect()
    """
    cell = spark.submit(task(body))
    spark.until(lambda: bars(cell), what="the bar")
    spark.interrupt()
    assert spark.wait(cell).error.name == "KeyboardInterrupt"
    assert bars(cell)[-1].endswith("; stopped")
    assert "Traceback" not in cell.stderr
    active = "from pyspark.sql import SparkSession\nSparkSession.getActiveSession() is spark"
    assert spark.task(active).result == "True"
    after = """
    import time
    while spark.sparkContext.statusTracker().getActiveStageIds():
        time.sleep(0.1)
    spark.range(5).count()
    """
    assert spark.task(after).result == "5"


def test_interrupts_at_any_moment_leave_a_session_that_works(spark):
    body = """
    print("in")
    for n in range(1000):
        spark.range(100).selectExpr("sum(id)").collect()
        spark.sparkContext.parallelize(range(4), 2).count()
    """
    for number in range(8):
        cell = spark.submit(task(body))
        spark.until(lambda: "in" in cell.stdout, what="the cell's first words")  # noqa: B023
        time.sleep(0.11 * number)
        spark.interrupt()
        assert spark.wait(cell).error.name == "KeyboardInterrupt"
        assert spark.task("spark.range(5).count()").result == "5"


def test_a_cell_that_catches_the_interrupt_goes_on_without_its_job(spark):
    body = """
    import time
    print("in", flush=True)
    try:
        spark.sparkContext.parallelize(range(200), 200).map(lambda x: time.sleep(1)).collect()
    except KeyboardInterrupt:
        found = spark.range(5).count()
    """
    cell = spark.submit(task(body, "-o found"))
    spark.until(lambda: bars(cell), what="the bar")
    spark.interrupt()
    assert spark.wait(cell).error is None
    assert spark.run("found").result == "5"


def test_an_interrupt_is_one_where_the_cell_has_made_its_own_session(spark):
    body = """
    from pyspark.sql import SparkSession
    spark.stop()
    spark = SparkSession.builder.getOrCreate()
    print("in")
    import time
    spark.sparkContext.parallelize(range(200), 200).map(lambda x: time.sleep(1)).count()
    """
    cell = spark.submit(task(body))
    spark.until(lambda: "in" in cell.stdout, what="the cell's first words")
    spark.interrupt()
    assert spark.wait(cell).error.name == "KeyboardInterrupt"
    assert spark.task("spark.range(5).count()").result == "5"


def test_what_spark_says_is_in_the_logs_and_not_in_cells(spark):
    spark.task("print('from the driver')\nspark.sparkContext.parallelize([1], 1).foreach(print)")

    def log(process: str) -> str:
        return str(spark.run(f"%flyte logs env {process} -n 0").result)

    assert "incubator" in log("driver")
    assert "Successfully registered with master" in log("worker-0")
    assert "Registering worker" in log("master-0")

    def printed() -> str:
        return f"{log('worker-0')}\n{log('worker-1')}\n"

    spark.until(lambda: re.search(r"executor \d+: 1\b", printed()), what="the executor's print")


# -- who can reach it -----------------------------------------------------------------------------


def test_everything_listens_on_this_machine_alone_and_answers_to_nobody_else(spark):
    ports = []
    for process, _ in leaks.marked(spark.pid):
        for socket in process.net_connections(kind="tcp"):
            if socket.status == psutil.CONN_LISTEN:
                assert socket.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1"), leaks_command(process)
                ports.append(socket.laddr.port)
    assert ports
    for port in ports:
        with pytest.raises((OSError, http.client.HTTPException)) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
        if isinstance(refused.value, urllib.error.HTTPError):
            assert refused.value.code in (403, 404)


def test_the_pages_answer_below_their_path_and_link_below_it(spark):
    links = dict(
        line.split(": ", 1)
        for line in spark.run("%flyte dashboard env").result.splitlines()
        if ": http" in line
    )
    jobs, master = links["Spark jobs"], links["Spark master"]
    with urllib.request.urlopen(jobs) as answer:
        page = answer.read().decode()
    assert "FlyteSpark" in page
    root = jobs.removesuffix("jobs/").partition("/")[2].partition("/")[2].partition("/")[2]
    own = re.findall(r'(?:href|src)="(/[^"]*)"', page)
    assert own
    assert all(link.startswith(f"/{root}") for link in own)
    with urllib.request.urlopen(master) as answer:
        assert "Spark Master" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(re.sub(r"(:\d+/)[^/]+", r"\1wrong", jobs))


def test_no_command_line_shows_a_secret(spark):
    secrets = set()
    for process, _ in leaks.marked(spark.pid):
        secrets.add(process.environ().get("_SPARK_AUTH_SECRET", ""))
    secrets.discard("")
    assert len(secrets) == 1
    for process in psutil.process_iter():
        assert not secrets & set(" ".join(leaks_command(process)).split("="))
        assert secrets.isdisjoint(leaks_command(process))


# -- members that die -----------------------------------------------------------------------------


def test_a_dead_worker_is_replaced_and_the_work_goes_on(spark, tmp_path):
    spark.run(f"gate = {str(tmp_path / 'gate')!r}")
    body = """
    import os, time
    def work(x):
        while not os.path.exists(gate):
            time.sleep(0.05)
        return x
    print("in")
    result = spark.sparkContext.parallelize(range(6), 6).map(work).collect()
    """
    cell = spark.submit(task(body, "-o result"))
    spark.until_printed(cell, "in")
    victim = jvms(spark, "deploy.worker.Worker")[0]
    victim.send_signal(signal.SIGKILL)
    spark.until(lambda: victim.pid not in {p.pid for p in jvms(spark, "deploy.worker.Worker")})
    spark.until(lambda: len(jvms(spark, "deploy.worker.Worker")) == 2, PATIENCE)
    (tmp_path / "gate").touch()
    assert spark.wait(cell, PATIENCE).error is None
    assert spark.value("result") == list(range(6))
    assert "killed by SIGKILL" in spark.run("%flyte status env").result


def test_executors_follow_the_workers_when_the_cluster_is_scaled(spark):
    def executors() -> int:
        return len(jvms(spark, "CoarseGrainedExecutorBackend"))

    spark.run("%flyte scale env 1", timeout=PATIENCE)
    spark.until(lambda: executors() == 1, PATIENCE)
    assert spark.run(task("spark.range(8).repartition(3).count()"), timeout=PATIENCE).result == "8"
    spark.run("%flyte scale env 2", timeout=PATIENCE)
    spark.until(lambda: executors() == 2, PATIENCE)


def test_workers_that_leave_finish_their_tasks_and_hand_on_what_they_hold(spark, tmp_path):
    spark.task("""
    held = spark.sparkContext.parallelize(range(40), 8).cache()
    held.count()
    """, "-r held")  # fmt: skip
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    spark.run(task(f"""
    import os, time
    def slow(x):
        with open({str(runs)!r}, "a") as file:
            print(os.getppid(), file=file)
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.05)
        return x
    total = spark.sparkContext.parallelize(range(6), 6).map(slow).sum()
    """, "-o total --bg work"))  # fmt: skip
    spark.until(lambda: runs.exists() and len(set(runs.read_text().split())) == 2, PATIENCE)
    try:
        scaling = spark.submit("%flyte scale env 1")
        time.sleep(3)
        assert len(jvms(spark, "CoarseGrainedExecutorBackend")) == 2, "both have a task"
        gate.touch()
        spark.wait(scaling, PATIENCE)
        spark.until(lambda: len(jvms(spark, "CoarseGrainedExecutorBackend")) == 1, PATIENCE)
        assert spark.run("work.result()", timeout=PATIENCE).result == "15"
        assert len(runs.read_text().split()) == 6, "none was run again"
        kept = "spark.sparkContext._jsc.sc().getRDDStorageInfo()[0].numCachedPartitions()"
        assert spark.task(kept).result == "8"
    finally:
        gate.touch()
        spark.run("%flyte scale env 2", timeout=PATIENCE)


def test_the_end_of_the_drivers_jvm_is_the_end_of_the_driver_and_a_new_one_is_there(spark):
    workers = {p.pid for p in jvms(spark, "deploy.worker.Worker")}
    cell = spark.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    spark.until_printed(cell, "in")
    jvms(spark, "deploy.SparkSubmit")[0].send_signal(signal.SIGKILL)
    error = spark.wait(cell).error
    assert error.name == "DriverLost"
    assert "JVM ended: killed by signal 9" in error.value
    assert spark.run(task("spark.range(3).count()"), timeout=PATIENCE).result == "3"
    assert {p.pid for p in jvms(spark, "deploy.worker.Worker")} == workers


def test_a_lost_master_is_a_lost_cluster_and_the_next_cell_starts_another(spark):
    cell = spark.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    spark.until_printed(cell)
    jvms(spark, "deploy.master.Master")[0].send_signal(signal.SIGKILL)
    error = spark.wait(cell).error
    assert error.name == "ClusterLost"
    assert "master-0 ended: killed by SIGKILL" in error.value
    spark.until(lambda: not jvms(spark, "spark"), what="the JVMs to go")
    assert spark.run(task("spark.range(2).count()"), timeout=PATIENCE).result == "2"


def test_two_clusters_stand_side_by_side(spark):
    spark.run(
        'beside = flyte.TaskEnvironment(name="beside", plugin_config=Spark('
        'spark_conf={**CONF, "spark.executor.instances": "1"}))'
    )
    body = "spark.sparkContext.master, spark.range(9).count()"
    master, count = eval(spark.run(task(body, environment="beside"), timeout=PATIENCE).result)
    assert count == 9
    assert eval(spark.task(body).result)[0] != master
    spark.run("%flyte down beside")


FUNCTIONS = """if True:
    import flyte_jupyter, time
    @env.task
    def slow(n: int) -> int:
        from pyspark.sql import SparkSession
        context = SparkSession.builder.getOrCreate().sparkContext
        return context.parallelize(range(n), n).map(lambda x: time.sleep(0.6) or x).sum()
    @env.task
    async def both() -> list:
        import flyte
        return [x async for x in flyte.map.aio(slow, [2, 6])]
"""


def test_the_end_of_a_function_stops_no_job(spark):
    spark.run(FUNCTIONS)
    cell = spark.run("flyte_jupyter.run(slow, 8).result()")
    assert cell.result == "28"
    assert bars(cell)[-1].endswith("; done")
    assert spark.value("flyte_jupyter.run(both).result()") == [1, 15]


def test_an_interrupt_of_what_becomes_a_pandas_frame_cancels_its_job(spark):
    body = """
    import time
    slow = lambda x: (time.sleep(1) or x,)
    rows = spark.sparkContext.parallelize(range(200), 200).map(slow)
    frame = rows.toDF("x int")
    print("in")
    frame.toPandas()
    """
    before = spark.task("import os\nos.getpid()").result
    cell = spark.submit(task(body))
    spark.until(lambda: bars(cell), what="the bar")
    spark.interrupt()
    assert spark.wait(cell).error.name == "KeyboardInterrupt"
    assert spark.task("import os\nos.getpid()").result == before
    assert spark.task("spark.range(5).toPandas()['id'].sum()").result.endswith("10)")
