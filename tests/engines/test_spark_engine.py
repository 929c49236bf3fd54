"""What a Spark cluster is made of, as described before anything starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import stat
import warnings
from pathlib import Path

import flyte
import psutil
import pytest

from flyte_jupyter.engines import requirements
from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.engines.spark import conf, java, layout, pages, progress, trampoline
from flyte_jupyter.engines.spark.engine import SparkEngine
from flyte_jupyter.errors import EngineError, UsageError
from flyte_jupyter.sessions.environments import Environment
from tests import leaks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flyte's own models use what pydantic will remove
    from flyteplugins.spark import Spark

ENGINE = SparkEngine()


def described(**settings: str) -> ClusterSpec:
    keys = {f"spark.{key.replace('_', '.')}": value for key, value in settings.items()}
    return ENGINE.describe(Spark(spark_conf=keys), None)


def test_a_cluster_is_a_vital_master_and_workers_that_scale():
    spec = described(executor_instances="3")
    assert [(r.name, r.replicas, r.vital, r.scalable) for r in spec.roles] == [
        ("master", 1, True, False),
        ("worker", 3, False, True),
    ]
    assert ENGINE.describe(Spark(), None).role("worker").replicas == conf.EXECUTORS


def test_a_description_crosses_a_process_unchanged():
    spec = described(executor_memory="700m", sql_shuffle_partitions="3")
    assert ClusterSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


def test_a_worker_has_room_for_one_executor_of_the_size_asked_for():
    worker = described(executor_cores="1", executor_memory="2g").role("worker")
    assert worker.args == {"cores": 1, "memory": 2048 + 384, "folders": []}
    worker = described(executor_memory="600", executor_memoryOverhead="1g").role("worker")
    assert worker.args["memory"] == 600 + 1024


def test_another_number_of_executors_is_had_by_scaling():
    few, many = described(executor_instances="1"), described(executor_instances="2")
    assert few.driver_args == many.driver_args
    assert few.role("worker").shares == ("cores",)
    assert described(executor_cores="1").role("worker").shares == ()


def dynamic(**settings: str) -> Spark:
    keys = {f"spark.dynamicAllocation.{key}": value for key, value in settings.items()}
    return Spark(spark_conf={"spark.dynamicAllocation.enabled": "true", **keys})


@pytest.fixture
def machine(monkeypatch):
    """Take the machine for another."""

    def like(cpus, memory):
        monkeypatch.setattr(conf, "machine_cpus", lambda: cpus)
        monkeypatch.setattr(conf, "_machine_memory", lambda: memory)
        return cpus

    return like


def test_executors_that_nobody_asked_for_by_number_are_as_many_as_there_is_room_for(machine):
    machine(16, 32 * 1024)
    large = dynamic()
    large.spark_conf["spark.executor.memory"] = "4g"
    assert ENGINE.describe(large, None).role("worker").replicas == 7
    few = dynamic(maxExecutors="4")
    few.spark_conf["spark.executor.instances"] = "10"
    assert ENGINE.describe(few, None).role("worker").replicas == 4


def test_executors_that_spark_asks_for_have_a_worker_each_as_far_as_there_are_cores(machine):
    cores = machine(4, 64 * 1024)
    worker = ENGINE.describe(dynamic(minExecutors="0", maxExecutors="1"), None).role("worker")
    assert (worker.replicas, worker.least, worker.most) == (1, None, 1)
    config = dynamic(minExecutors="1", maxExecutors="9999")
    worker = ENGINE.describe(config, None).role("worker")
    assert (worker.replicas, worker.least, worker.most) == (cores, 1, 9999)
    assert worker.bounds == "minExecutors={least}, maxExecutors={most}"
    assert "of at most 9999, for want of cores" in ENGINE.remarks(config)[0]
    assert ENGINE.describe(dynamic(), None).role("worker").replicas == cores
    many = str(cores + 3)
    for key in ("minExecutors", "initialExecutors"):
        assert ENGINE.describe(dynamic(**{key: many}), None).role("worker").replicas == cores + 3
    config = dynamic(maxExecutors=many)
    config.spark_conf["spark.executor.instances"] = many
    spec = ENGINE.describe(config, None)
    assert spec.role("worker").replicas == cores + 3
    assert spec.driver_args["conf"]["spark.executor.instances"] == many, "with which Spark begins"
    with pytest.raises(EngineError, match="maxExecutors must be a whole number of at least 1"):
        ENGINE.describe(dynamic(maxExecutors="0"), None)


def test_a_shuffle_service_is_named_and_not_waited_for():
    config = dynamic(**{"shuffleTracking.enabled": "false"})
    config.spark_conf["spark.shuffle.service.enabled"] = "true"
    assert set(ENGINE.ignored(config)) == {
        "spark_conf['spark.shuffle.service.enabled']",
        "spark_conf['spark.dynamicAllocation.shuffleTracking.enabled']",
    }
    conf = ENGINE.describe(config, None).driver_args["conf"]
    assert conf == {"spark.dynamicAllocation.enabled": "true"}
    assert ENGINE.ignored(Spark(spark_conf={"spark.shuffle.service.enabled": "false"})) == {}


def test_settings_reach_the_driver_and_hadoops_as_sparks():
    config = Spark(
        spark_conf={"spark.sql.shuffle.partitions": "3", "spark.kubernetes.namespace": "x"},
        hadoop_conf={"fs.s3a.endpoint": "http://x"},
        executor_path="/opt/python",
    )
    args = ENGINE.describe(config, None).driver_args
    assert args["conf"] == {
        "spark.sql.shuffle.partitions": "3",
        "spark.hadoop.fs.s3a.endpoint": "http://x",
    }
    assert args["python"] == "/opt/python"


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "two", "", "²"])
@pytest.mark.parametrize("key", ["spark.executor.instances", "spark.executor.cores"])
def test_a_number_that_is_none_is_refused(key, count):
    with pytest.raises(EngineError, match=f"{key} must be a whole number of at least 1"):
        ENGINE.describe(Spark(spark_conf={key: count}), None)


@pytest.mark.parametrize("size", ["lots", "1.5g", "-1g", "4 g", ""])
@pytest.mark.parametrize("key", ["spark.executor.memory", "spark.driver.memory"])
def test_a_size_that_cannot_be_read_is_refused(key, size):
    with pytest.raises(EngineError, match=f"{key} must be a size"):
        ENGINE.describe(Spark(spark_conf={key: size}), None)


def test_a_value_that_is_no_text_is_refused_as_kubernetes_would():
    with pytest.raises(EngineError, match=r'takes text.*"spark.executor.instances": "2"'):
        ENGINE.describe(Spark(spark_conf={"spark.executor.instances": 2}), None)


def test_more_memory_than_the_machine_has_is_refused():
    size = f"{psutil.virtual_memory().total // 2**30}g"
    with pytest.raises(EngineError, match="more memory than this machine has: 2 executors of"):
        described(executor_memory=size)


def test_more_cores_than_the_machine_has_are_shared_and_that_is_said():
    cores = os.cpu_count() or 1
    config = Spark(spark_conf={"spark.executor.cores": str(4 * cores)})
    assert ENGINE.describe(config, None).role("worker").args["cores"] == 4 * cores
    (said,) = ENGINE.remarks(config)
    assert f"share this machine's {cores} cores" in said
    assert ENGINE.ignored(config) == {}
    assert ENGINE.remarks(Spark(spark_conf={"spark.executor.cores": "1"})) == []


def test_arguments_for_the_start_of_spark_are_said_to_be_passed_over(monkeypatch):
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--packages a:b:1 pyspark-shell")
    assert "PYSPARK_SUBMIT_ARGS is not read" in ENGINE.remarks(Spark())[0]
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "pyspark-shell")
    assert ENGINE.remarks(Spark()) == []


def test_what_a_local_cluster_cannot_have_is_named():
    assert ENGINE.ignored(Spark(spark_conf={"spark.sql.shuffle.partitions": "2"})) == {}
    config = Spark(
        spark_conf={
            "spark.kubernetes.namespace": "x",
            "spark.kubernetes.authenticate.driver.serviceAccountName": "y",
            "spark.ui.port": "4040",
            "spark.cores.max": "1",
            "spark.executor.resource.gpu.amount": "1",
            "spark.task.resource.gpu.amount": "1",
        },
        applications_path="local:///app.py",
        driver_pod=flyte.PodTemplate(),
        executor_pod=flyte.PodTemplate(),
    )
    assert set(ENGINE.ignored(config)) == {
        "spark_conf['spark.kubernetes.*']",
        "spark_conf['spark.ui.port']",
        "spark_conf['spark.cores.max']",
        "spark_conf['spark.executor.resource.gpu.amount']",
        "spark_conf['spark.task.resource.gpu.amount']",
        "applications_path",
        "driver_pod",
        "executor_pod",
    }
    assert ENGINE.describe(config, None).driver_args["conf"] == {}


def test_options_make_the_config():
    made = ENGINE.configure(
        {
            "workers": "3",
            "worker-cpu": "1",
            "worker-memory": "600m",
            "conf": "spark.sql.shuffle.partitions=3\nspark.app.id=a=b",
        }
    )
    assert made.spark_conf == {
        "spark.executor.instances": "3",
        "spark.executor.cores": "1",
        "spark.executor.memory": "600m",
        "spark.sql.shuffle.partitions": "3",
        "spark.app.id": "a=b",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worker": "3"}, "Spark has no option --worker"),
        ({"workers": "0"}, "--workers takes a whole number"),
        ({"worker-cpu": "1.5"}, "--worker-cpu takes a whole number"),
        ({"worker-memory": "big"}, "must be a size"),
        ({"conf": "spark.x"}, "--conf takes KEY=VALUE"),
        ({"conf": "x=1"}, "--conf takes KEY=VALUE"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_usage_error(options, said):
    with pytest.raises(UsageError, match=said):
        ENGINE.configure(options)


def test_pages_are_links_once_there_are_some():
    assert ENGINE.links({}) == {}
    links = ENGINE.links({"master": [{"pages": "http://127.0.0.1:1/t", "ui": True}]})
    assert links == {
        "Spark jobs": "http://127.0.0.1:1/t/ui/jobs/",
        "Spark master": "http://127.0.0.1:1/t/master/",
    }


def test_pyspark_that_is_not_installed_or_too_old_is_named_with_the_command(monkeypatch):
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda n: None if n == "pyspark" else find(n))
        with pytest.raises(EngineError, match=r"pyspark.*pip install 'flyte-jupyter\[spark\]'"):
            described()
    monkeypatch.setattr(requirements, "version_of", lambda package, origin: "3.5.8")
    with pytest.raises(EngineError, match=r"pyspark 4 or later: pyspark 3.5.8.*pip install"):
        described()


# -- Java ---------------------------------------------------------------------------------------


def a_java(folder, version: str, *, release: bool = True) -> str:
    """Make what looks like a Java, and return its home."""
    home = folder / version
    (home / "bin").mkdir(parents=True)
    command = home / "bin" / "java"
    command.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    command.chmod(0o755)
    if release:
        (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return str(home)


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize(("version", "major"), [("1.8.0_402", 8), ("17.0.15", 17), ("21", 21)])
def test_the_version_of_a_java_is_known(tmp_path, version, major, release):
    home = a_java(tmp_path, version, release=release)
    found = list(java._installed(home, ""))
    assert [(str(j.home), j.version) for j in found] == [(home, major)]


def test_java_is_that_of_java_home_and_else_of_the_path(tmp_path):
    first, second = a_java(tmp_path, "21"), a_java(tmp_path, "17.0.1")
    path = f"{tmp_path}{os.pathsep}{second}/bin"
    assert java.find_java({"JAVA_HOME": first, "PATH": path}).version == 21
    assert java.find_java({"JAVA_HOME": str(tmp_path / "none"), "PATH": path}).version == 17
    old = a_java(tmp_path, "11.0.2")
    assert java.find_java({"JAVA_HOME": old, "PATH": path}).version == 17


def test_no_java_or_an_old_one_is_said_in_one_line_with_the_command(tmp_path):
    with pytest.raises(EngineError, match=r"needs Java 17 or later: none in JAVA_HOME or on the"):
        java.find_java({"PATH": str(tmp_path)})
    old = a_java(tmp_path, "11.0.2")
    with pytest.raises(EngineError, match=r"11.0.2/bin/java is version 11\. .*(install|brew)") as e:
        java.find_java({"JAVA_HOME": old, "PATH": ""})
    assert "\n" not in str(e.value)


def test_a_cluster_without_java_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    declared = flyte.TaskEnvironment(name="javaless", plugin_config=Spark())
    with pytest.raises(EngineError, match="Spark needs Java 17"):
        Environment.of(declared).spec({})


def test_the_java_that_an_environment_names_is_looked_for_there(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    env_vars = {"JAVA_HOME": a_java(tmp_path, "21")}
    declared = flyte.TaskEnvironment(name="java", plugin_config=Spark(), env_vars=env_vars)
    assert Environment.of(declared).spec({}).env["JAVA_HOME"] == env_vars["JAVA_HOME"]


# -- what keeps a cluster private -----------------------------------------------------------------


def test_no_secret_is_in_a_command_or_in_a_file_that_others_can_read(tmp_path):
    shared = layout.make(tmp_path)
    written = layout.write_properties(tmp_path / "spark" / "a.conf", layout.guarded(shared))
    assert stat.S_IMODE(os.stat(written).st_mode) == 0o600
    found = java.find_java()
    command = " ".join(java.command(found, layout.options(tmp_path), "Main", written))
    assert not [secret for secret in shared.values() if secret in command]
    with open(written) as file:
        assert shared["secret"] not in file.read()
    assert shared["secret"] in layout.environ(tmp_path, shared, found).values()


def test_a_folder_on_another_disk_is_private_and_goes_with_the_clusters(tmp_path):
    from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder

    folder, disk = tmp_path / "1-1-aaaaaaaa", tmp_path / "disk"
    folder.mkdir()
    shared = layout.make(folder)
    spec = described(local_dir=str(disk))
    for args in (spec.role("worker").args, spec.driver_args):
        variables = layout.environ(folder, {**shared, **args}, java.find_java())
        assert variables["SPARK_LOCAL_DIRS"] == str(disk / "flyte-jupyter-1-1-aaaaaaaa")
    made = disk / "flyte-jupyter-1-1-aaaaaaaa"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    RuntimeFolder(folder).remove()
    assert disk.is_dir()
    assert not made.exists()


def test_settings_of_any_text_are_read_back_by_java(tmp_path):
    settings = {"spark.a b": " x=\\y:#!\n\té😀 ", "spark.empty": "", "spark.plain": "http://x/?a&b"}
    path = layout.write_properties(tmp_path / "a.conf", settings)
    source = tmp_path / "Read.java"
    source.write_text(
        """
        import java.io.*; import java.util.*; import java.nio.charset.StandardCharsets;
        public class Read {
            public static void main(String[] a) throws Exception {
                Properties p = new Properties();
                p.load(new InputStreamReader(new FileInputStream(a[0]), "UTF-8"));
                PrintStream out = new PrintStream(System.out, true, "UTF-8");
                for (String k : p.stringPropertyNames())
                    out.print(k + "\\0" + p.getProperty(k) + "\\0");
            }
        }
        """
    )
    import subprocess

    run = subprocess.run(
        [str(java.find_java().path), str(source), path], capture_output=True, check=False
    )
    if b"compiler" in run.stderr:
        pytest.skip("this Java cannot compile")
    fields = run.stdout.decode().split("\0")[:-1]
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == settings, run.stderr


def test_a_token_is_signed_as_its_rfc_says():
    import base64
    import hashlib
    import hmac

    key = base64.urlsafe_b64encode(b"k" * 32).decode()
    head, claims, signature = pages.signed(key).split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "HS256", "typ": "JWT"}
    assert base64.urlsafe_b64decode(claims + "==") == b"{}"
    expected = hmac.new(b"k" * 32, f"{head}.{claims}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "==") == expected


# -- processes ----------------------------------------------------------------------------------


def test_a_program_ends_as_it_ends_and_is_told_apart():
    run = trampoline.start(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], os.environ)
    out, _ = run.communicate()
    assert (sorted(out.split()), run.returncode) == ([b"err", b"out"], 3)


@pytest.mark.parametrize("way", ["main()", "_LINUX = False; main()"])
def test_a_program_does_not_outlive_who_has_started_it(tmp_path, way):
    import subprocess
    import sys

    note = tmp_path / "pid"
    source = Path(trampoline.__file__).read_text().replace("    main()\n", f"    {way}\n")
    script = tmp_path / "trampoline.py"
    script.write_text(source)
    program = ["/bin/sh", "-c", f"echo $$ > {note}; exec sleep 600"]
    starter = f"""
import os, subprocess, sys, time
command = [sys.executable, {str(script)!r}, str(os.getpid()), *{program!r}]
subprocess.Popen(command)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", starter])
    try:
        assert leaks.until(lambda: note.exists() and note.read_text().strip())
        pid = int(note.read_text())
        assert psutil.pid_exists(pid)
    finally:
        parent.kill()
        parent.wait()
    assert leaks.until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"
    )


# -- progress -------------------------------------------------------------------------------------


def test_stages_are_told_as_text_and_as_a_bar():
    stages = [
        progress.Stage(1, "$anonfun$x at CompletableFuture.java:1", 4, 4, 0),
        progress.Stage(2, "collect at /tmp/x/1.py:2", 8, 3, 1),
    ]
    bundle = progress.as_bundle(stages)
    assert bundle["text/plain"] == "Spark: 2 stages, 7/12 tasks, 1 failed; collect"
    assert '<progress value="7" max="12">' in bundle["text/html"]
    assert progress.as_bundle(stages[:1])["text/plain"] == "Spark: 1 stage, 4/4 tasks"
    assert progress.as_bundle(stages[:1], "stopped")["text/plain"].endswith("tasks; stopped")
