"""The private names of Spark's, PySpark's and Py4J's that are used: a change of one fails here.

Those of the JVM are looked for in its classes: starting one takes seconds.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pyspark")

from pyspark import SparkContext
from pyspark.sql import SparkSession

from flyte_jupyter.engines.spark import conf, daemons, java, layout, refusals, retiring

DEPLOY, CONFIG = "org/apache/spark/deploy", "org/apache/spark/internal/config"


def constants(jar: str, *classes: str) -> bytes:
    """Return the bytes of classes, and of those within them, of one of Spark's jars."""
    (path,) = (java.spark_home() / "jars").glob(f"{jar}_*.jar")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        found = [n for n in names if n.removesuffix(".class").partition("$")[0] in classes]
        assert {n.removesuffix(".class").partition("$")[0] for n in found} == set(classes)
        return b"".join(archive.read(name) for name in found)


# -- PySpark and Py4J -----------------------------------------------------------------------------


def test_a_gateway_that_exists_is_used():
    from pyspark import java_gateway
    from pyspark.serializers import UTF8Deserializer, read_int

    assert callable(UTF8Deserializer)
    assert callable(read_int)
    source = inspect.getsource(java_gateway.launch_gateway)
    assert 'os.environ["PYSPARK_GATEWAY_PORT"]' in source
    assert 'os.environ["PYSPARK_GATEWAY_SECRET"]' in source
    source = inspect.getsource(SparkContext._ensure_initialized)
    assert "SparkContext._gateway = gateway or launch_gateway(conf)" in source
    assert "SparkContext._jvm = SparkContext._gateway.jvm" in source
    assert b"_PYSPARK_DRIVER_CONN_INFO_PATH" in constants(
        "spark-core", "org/apache/spark/api/python/PythonGatewayServer"
    )


def test_the_present_session_and_context_are_known_by_these_names():
    assert SparkSession._instantiatedSession is None
    assert SparkContext._active_spark_context is None
    source = inspect.getsource(SparkSession.__init__)
    for name in ("self._sc = ", "self._jvm = ", "self._jsparkSession = "):
        assert name in source
    assert "self._jsc = None" in inspect.getsource(SparkContext.stop)
    assert "setActiveSession(self._jsparkSession)" in inspect.getsource(SparkSession)


def test_a_session_is_asked_for_by_what_is_replaced():
    builder = SparkSession.Builder()
    assert builder.appName("name")._options == {"spark.app.name": "name"}
    assert list(inspect.signature(builder.getOrCreate).parameters) == []
    entries = constants("spark-common-utils", f"{CONFIG}/ConfigEntry")
    assert b"findEntry" in entries
    assert b"defaultValueString" in entries
    for key in (b"spark.executor.memory", b"spark.jars.packages"):
        assert key in constants("spark-core", f"{CONFIG}/package")


def test_a_command_of_py4j_goes_through_what_is_replaced():
    from py4j import clientserver, java_gateway
    from py4j.clientserver import ClientServerConnection, JavaClient
    from py4j.protocol import is_error

    named = inspect.signature(JavaClient.send_command).parameters
    assert list(named)[:2] == ["self", "command"]
    assert callable(JavaClient.get_thread_connection)
    source = inspect.getsource(clientserver.JavaClient)
    assert "self.thread_connection.connection = conn" in source
    assert "connection = self.get_thread_connection()" in source
    source = inspect.getsource(ClientServerConnection.connect_to_java_server)
    assert 'self.stream = self.socket.makefile("rb")' in source
    source = inspect.getsource(ClientServerConnection.send_command)
    assert source.count("self.socket.sendall(command") == 1, "one sending, then its answer"
    assert is_error("xro1") == is_error("") == (True, None)
    assert is_error("yv") == (False, None)
    assert '"Exception while sending command."' in inspect.getsource(java_gateway)


def test_a_context_takes_the_interrupt_for_itself_when_it_is_made():
    source = inspect.getsource(SparkContext)
    assert "signal.signal(signal.SIGINT, signal_handler)" in source


def test_exceptions_have_an_object_of_the_jvm_and_subclasses():
    from py4j.protocol import Py4JJavaError
    from pyspark.errors.exceptions.captured import CapturedException

    assert "self.java_exception = java_exception" in inspect.getsource(Py4JJavaError)
    names = {kind.__name__ for kind in CapturedException.__subclasses__()}
    assert {"AnalysisException", "PythonException"} <= names


def test_pysparks_own_cloudpickle_has_a_registry_to_share():
    import cloudpickle.cloudpickle
    import pyspark.cloudpickle.cloudpickle

    for module in (cloudpickle.cloudpickle, pyspark.cloudpickle.cloudpickle):
        assert isinstance(module._PICKLE_BY_VALUE_MODULES, set)


def test_what_pyspark_is_told_not_to_say_is_said_by_these_names():
    from pyspark.errors.exceptions import base
    from pyspark.sql.pandas import utils

    source = inspect.getsource(base)
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        assert f'getLogger("{name}")' in source
        assert isinstance(logging.getLogger(name), logging.Logger)
    with warnings.catch_warnings(record=True):
        assert "PySpark does not yet fully support pandas" in inspect.getsource(utils)


# -- the JVM's side -------------------------------------------------------------------------------


def test_a_jvm_is_started_with_the_modules_that_sparks_launcher_opens():
    (path,) = (java.spark_home() / "jars").glob("spark-launcher_*.jar")
    with zipfile.ZipFile(path) as archive:
        options = archive.read("org/apache/spark/launcher/JavaModuleOptions.class")
    theirs = set(re.findall(rb"(?:--|-XX:|-D)[\w.:+/=-]+", options))
    ours = {option.encode() for option in java._MODULES}
    unnamed = {option for option in theirs if option.endswith(b"=ALL-UNNAMED")}
    assert unnamed
    # What it adds beside these of its own: a setting of IPv6 that the machine decides.
    assert {o for o in theirs if o.partition(b"=")[0] != b"-Djava.net.preferIPv6Addresses"} == ours


def test_masters_and_workers_log_what_is_read():
    classes = [f"{DEPLOY}/master/Master", f"{DEPLOY}/worker/Worker", f"{DEPLOY}/DeployMessages"]
    logged = constants("spark-core", *classes[:2])
    for words in (b"Starting Spark master at", b"New state: ", b"Successfully registered with"):
        assert words in logged
    assert b" finished with state " in logged
    assert b"--webui-port" in constants("spark-core", f"{DEPLOY}/worker/WorkerArguments")
    line = "INFO Worker: Executor app-1/2 finished with state EXITED message x exitStatus 1"
    assert refusals._ENDED.search(line)
    assert daemons._WORKER.replace(".", "/") == classes[1]
    header = constants("spark-core", f"{DEPLOY}/worker/ExecutorRunner")
    assert refusals._SPARKS_OWN[0].encode() in header


def test_the_driver_knows_which_executors_have_reported():
    assert b"executorList" in constants("spark-core", "org/apache/spark/status/AppStatusStore")
    assert b"statusStore" in constants("spark-core", "org/apache/spark/SparkContext")


def test_the_master_tells_of_applications_and_workers_in_these_words():
    told = constants("spark-core", f"{DEPLOY}/JsonProtocol")
    for name in ("activeapps", "state", "memoryperexecutor", "resourcesperexecutor"):
        assert name.encode() in told
    for name in ("workers", "coresused", "memoryused", "cores", "memory"):
        assert name.encode() in told
    states = constants("spark-core", f"{DEPLOY}/master/ApplicationState")
    assert b"WAITING" in states


def test_secrets_and_signals_have_the_names_that_are_used():
    core = constants("spark-core", "org/apache/spark/SecurityManager")
    assert layout._SECRET.encode() in core
    assert constants("spark-core", layout._FILTER.replace(".", "/"))
    assert constants("spark-core", f"org/apache/spark/executor/{retiring._EXECUTOR}")
    config = constants("spark-core", f"{CONFIG}/package", f"{CONFIG}/Worker")
    for key in (b"spark.worker.decommission.signal", b"spark.executor.decommission.signal", b"PWR"):
        assert key in config


def test_settings_that_are_made_here_are_known_to_spark():
    found = constants("spark-core", f"{CONFIG}/package", f"{CONFIG}/Network")
    for key in (*retiring.SETTINGS, "spark.authenticate", "spark.network.crypto.enabled"):
        assert key.encode() in found, key
    assert {"spark.decommission.enabled", "spark.authenticate"} <= set(conf._HERE)


def test_the_users_class_path_goes_before_sparks():
    command = java.command(java.Java(Path("java"), 17), (), "Main", "arg", classes="/my/driver.jar")
    path = command[command.index("-cp") + 1].split(os.pathsep)
    assert path[0] == "/my/driver.jar"
    assert path[-1] == str(java.spark_home() / "jars" / "*")
    assert command[-2:] == ["Main", "arg"]


def test_frames_of_pandas_are_read_as_interrupts_count_on():
    from pyspark.sql.pandas import conversion

    source = inspect.getsource(conversion.PandasConversionMixin._collect_as_arrow)
    assert "with _load_from_socket(" in source
    reading = source.index("with _load_from_socket(")
    assert "with unwrap_spark_exception():" in source[reading:]
    assert callable(conversion.unwrap_spark_exception)
