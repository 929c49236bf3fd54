"""Finding a Java that Spark can use, and building commands that start Spark's classes with it.

Spark's own scripts start a shell and then a JVM whose only task is to print the command for the
next one, which takes longer than many a job. What they would add is added here: the class path,
and the modules that Spark needs opened.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flyte_jupyter.errors import EngineError

OLDEST = 17
"""The oldest Java that Spark 4 runs on."""

_OPENED = (
    "java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect",
    "java.base/java.io", "java.base/java.net", "java.base/java.nio", "java.base/java.util",
    "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref", "java.base/sun.nio.ch", "java.base/sun.nio.cs",
    "java.base/sun.security.action", "java.base/sun.util.calendar",
    "java.security.jgss/sun.security.krb5",
)  # fmt: skip
_MODULES = (
    # As `org.apache.spark.launcher.JavaModuleOptions` of Spark 4 has them; the first option lets a
    # Java that does not know one of the others start all the same.
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-modules=jdk.incubator.vector",
    *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED),
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

_QUICK = "-XX:TieredStopAtLevel=1"
"""No optimizing compiler: half of what a JVM computes until its first work is done is that."""

DAEMON = ("-Xms32m", "-Xmx512m", _QUICK, "-XX:+UseSerialGC")
"""For a master or worker, which do little.

A heap that begins small is collected now and then, and stays a hundred megabytes smaller.
"""

DRIVER = (_QUICK,)
"""For the driver, which plans and collects."""

EXECUTOR = (
    "-XX:Tier4InvocationThreshold=20000",
    "-XX:Tier4MinInvocationThreshold=5000",
    "-XX:Tier4CompileThreshold=40000",
    "-XX:Tier4BackEdgeThreshold=150000",
)
"""For executors: what runs often is optimized as ever, what runs at the start only is not."""


def limited(cores: int) -> str:
    """Return the option by which a JVM takes itself to have so many cores, as in a pod.

    By it Java chooses its garbage collector and the numbers of its threads.
    """
    return f"-XX:ActiveProcessorCount={cores}"


@dataclass(frozen=True)
class Java:
    """One installed Java.

    Parameters
    ----------
    path
        Its ``java`` command.
    version
        Its major version; 0 if it does not say.
    """

    path: Path
    version: int

    @property
    def home(self) -> Path:
        """What ``JAVA_HOME`` is to be for it."""
        return self.path.parent.parent


def find_java(environ: Mapping[str, str] = os.environ) -> Java:
    """Return the Java of ``JAVA_HOME``, or else of the ``PATH``.

    Raises
    ------
    EngineError
        There is none, or none that is new enough.
    """
    found = list(_installed(environ.get("JAVA_HOME", ""), environ.get("PATH", "")))
    for java in found:
        if java.version >= OLDEST:
            return java
    seen = "none in JAVA_HOME or on the PATH"
    if found:
        seen = ", ".join(f"{java.path} is version {java.version or '?'}" for java in found)
    raise EngineError(f"Spark needs Java {OLDEST} or later", seen=seen, fix=_advice())


def _installed(home: str, path: str) -> Iterator[Java]:
    candidates = [Path(home, "bin", "java")] if home else []
    if on_path := shutil.which("java", path=path):
        candidates.append(Path(on_path))
    for candidate in candidates:
        try:
            real = candidate.resolve(strict=True)
            yield Java(real, _version(real, real.stat().st_mtime_ns))
        except OSError:
            continue


@functools.lru_cache(maxsize=8)
def _version(java: Path, stamp: int) -> int:
    """Return the major version; asked before every cell, so it is found out once."""
    del stamp
    try:
        said = (java.parent.parent / "release").read_text(errors="replace")
    except OSError:  # macOS' stub has none, and prints that there is no Java at all
        command = [str(java), "-version"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    match = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', said)
    return int(match[1]) if match else 0


def _advice() -> str:
    """Say how to get one on this platform."""
    if os.environ.get("CONDA_PREFIX") and shutil.which("conda"):
        command = "%conda install -c conda-forge openjdk=17"
    elif sys.platform == "darwin":
        command = "brew install openjdk@17"
        return f"In a terminal: {command}, and set JAVA_HOME to $(brew --prefix openjdk@17)."
    elif shutil.which("dnf"):
        command = "sudo dnf install java-17-openjdk-headless"
    else:
        command = "sudo apt-get install openjdk-17-jre-headless"
    return f"Type: {command}" if command.startswith("%") else f"In a terminal: {command}"


def spark_home() -> Path:
    """Return the folder of the installed pyspark, in which Spark is."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def command(
    java: Java, options: tuple[str, ...], main: str, *arguments: str, classes: str = ""
) -> list[str]:
    """Return the command that runs one of Spark's classes; anybody may read it, so no secrets.

    Parameters
    ----------
    java, options, main, arguments
        What runs, and with what.
    classes
        A class path to look in before Spark's own.
    """
    jars = spark_home() / "jars"
    # slf4j's API first, as Spark's launcher puts it: other jars hold an older copy of it.
    slf4j = [str(jar) for jar in sorted(jars.glob("slf4j-api-*.jar"))[:1]]
    folders = [os.environ.get(name, "") for name in ("SPARK_CONF_DIR", "HADOOP_CONF_DIR")]
    path = os.pathsep.join([*filter(None, [classes, *folders]), *slf4j, str(jars / "*")])
    return [str(java.path), *_MODULES, *options, "-cp", path, main, *arguments]
