"""The driver's own JVM, started while PySpark is still being imported and the master still starts.

PySpark would start it through three scripts and a JVM that prints its command line, and wait for it
before anything else is done. Here it is started directly, as PySpark's own "existing gateway".
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from flyte_jupyter.engines.engine import Member
from flyte_jupyter.engines.spark import failures, java, layout, retiring, trampoline
from flyte_jupyter.errors import EngineError

_APP = "FlyteSpark"
"""The name that Flyte's plugin gives to its session."""

_DEFAULTS = {
    "spark.app.name": _APP,
    "spark.sql.repl.eagerEval.enabled": "true",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    **retiring.SETTINGS,
}
_CATALOG = "spark.sql.catalogImplementation"
_LOOK = 0.005
_LAST_WORDS = 2000
"""Bytes at the end of what a JVM has logged in which it says why it did not start."""


def settings(member: Member) -> dict[str, str]:
    """Return all settings of the driver: defaults, the environment's own, and what has to be so."""
    asked: Mapping[str, str] = member.args["conf"]
    ours = shlex.join((*java.EXECUTOR, *layout.options(member.folder)))
    key = "spark.executor.defaultJavaOptions"
    return {
        **_DEFAULTS,
        **_warehouse(member),
        **asked,
        **layout.guarded(member.args),
        "spark.decommission.enabled": "true",  # an executor that is told to leave must know how
        # It must be there; the secret itself is in the environment, which is looked at first.
        "spark.authenticate.secret": "in the environment",
        "spark.submit.deployMode": "client",
        "spark.driver.host": layout.HOST,
        "spark.driver.bindAddress": layout.HOST,
        "spark.ui.port": "0",
        "spark.ui.showConsoleProgress": "false",
        key: f"{ours} {asked.get(key, '')}".strip(),
    }


def _warehouse(member: Member) -> dict[str, str]:
    """Return where tables go that nobody has a place for: they end with the catalog of a session.

    Left behind, they would keep the next session from making tables of the same names. Where the
    catalog is Hive's, it stays, and so do they.
    """
    if member.args["conf"].get(_CATALOG, "").strip() == "hive":
        return {}
    folder = layout.local(member.folder, member.args) / f"warehouse-{os.getpid()}"
    return {"spark.sql.warehouse.dir": str(folder)}


class Gateway:
    """A JVM to which PySpark speaks.

    Parameters
    ----------
    member
        The driver.
    """

    def __init__(self, member: Member) -> None:
        found = java.find_java()
        root = member.folder / "spark"
        self._answer = root / f"gateway-{os.getpid()}"
        # Not the driver's own output: what a JVM says while it starts is in nobody's cell.
        self._log = member.folder / "logs" / "driver.log"
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        conf = settings(member)
        properties = layout.write_properties(root / "driver.conf", conf)
        options = (
            f"-Xmx{member.args['heap']}m",
            java.limited(member.args["driver_cores"]),
            *java.DRIVER,
            *layout.options(member.folder),
            *_extra(conf),
        )
        arguments = ("--properties-file", properties, "pyspark-shell")
        classes = conf.get("spark.driver.extraClassPath", "")
        main = "org.apache.spark.deploy.SparkSubmit"
        command = java.command(found, options, main, *arguments, classes=classes)
        variables = {
            **layout.environ(member.folder, member.args, found),
            "_PYSPARK_DRIVER_CONN_INFO_PATH": str(self._answer),
            "SPARK_CONNECT_MODE": "0",
        }
        if folders := conf.get("spark.driver.extraLibraryPath"):
            known = filter(None, [folders, os.environ.get("LD_LIBRARY_PATH")])
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(known)
        with self._log.open("ab") as log:
            self.process = trampoline.start(command, variables, stdin=subprocess.PIPE, output=log)

    @property
    def alive(self) -> bool:
        """Whether the JVM still runs."""
        return self.process.poll() is None

    def join(self) -> Any:
        """Connect PySpark with the JVM, and return PySpark's view of it.

        Raises
        ------
        EngineError
            The JVM did not start.
        """
        from pyspark import SparkContext
        from pyspark.serializers import UTF8Deserializer, read_int

        while not self._answer.exists():
            if not self.alive:
                raise EngineError("the driver's JVM did not start", seen=self._last_words())
            time.sleep(_LOOK)
        with self._answer.open("rb") as file:
            port, secret = read_int(file), UTF8Deserializer().loads(file)
        self._answer.unlink()
        answer = {"PYSPARK_GATEWAY_PORT": str(port), "PYSPARK_GATEWAY_SECRET": secret}
        os.environ.update(answer)
        try:
            SparkContext._gateway = None
            SparkContext._ensure_initialized()
        finally:
            for name in answer:
                del os.environ[name]
        threading.Thread(target=self._share_its_end, name="jvm", daemon=True).start()
        return SparkContext._jvm

    def _share_its_end(self) -> None:
        """End the driver when its JVM has ended: nothing of a session can be had without it."""
        code = self.process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        print(f"the driver's JVM ended: {how}", file=sys.__stderr__, flush=True)
        os._exit(128 - code if code < 0 else code or 1)

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._begin)
            lines = log.read()[-_LAST_WORDS:].decode(errors="replace").splitlines()
        return failures.telling(lines) or f"exit code {self.process.returncode}"


def _extra(conf: Mapping[str, str]) -> list[str]:
    """Return the options that Spark's launcher would add to the driver's JVM."""
    options: list[str] = []
    for key in ("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions"):
        try:
            options += shlex.split(conf.get(key, ""))
        except ValueError as error:
            raise EngineError(f"{key} cannot be read", seen=str(error)) from None
    return options
