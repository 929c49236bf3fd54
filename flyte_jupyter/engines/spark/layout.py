"""What all JVMs of one Spark cluster share: folders, variables, and settings that keep it private.

Everything listens on loopback, and whoever connects has to know a secret. That goes from process to
process in the environment alone; a command line or a file holds none. The web pages of Spark answer
to who presents a signed token, which `pages.py` does for whom it lets in.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flyte_jupyter.engines.spark import java

HOST = "127.0.0.1"
_FILTER = "org.apache.spark.ui.JWSFilter"
_SECRET = "_SPARK_AUTH_SECRET"  # noqa: S105 - the name of Spark's variable
_LOGGING = """\
rootLogger.level = ${sys:flyte.level:-warn}
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%ex
logger.native.name = org.apache.hadoop.util.NativeCodeLoader
logger.native.level = error
"""


def make(folder: Path) -> dict[str, str]:
    """Make the folders of a cluster, and return the secrets that its processes share."""
    root = folder / "spark"
    for name in ("", "tmp", "local"):
        (root / name).mkdir(mode=0o700)
    (root / "log4j2.properties").write_text(_LOGGING)
    return {
        "secret": secrets.token_urlsafe(32),
        "pages_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "pages_token": secrets.token_urlsafe(16),
    }


def options(folder: Path) -> tuple[str, ...]:
    """Return the options of every JVM: where it logs to, and that it leaves nothing behind."""
    root = folder / "spark"
    return (
        "-XX:-UsePerfData",  # else each leaves a file in a folder shared by all users
        f"-Djava.io.tmpdir={root / 'tmp'}",
        f"-Dlog4j2.configurationFile={root / 'log4j2.properties'}",
    )


def guarded(args: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings by which nobody but the cluster itself can use it."""
    return {
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        "spark.master.rest.enabled": "false",
        "spark.ui.filters": _FILTER,
        f"spark.{_FILTER}.param.secretKey": args["pages_key"],
    }


def environ(folder: Path, args: Mapping[str, Any], found: java.Java) -> dict[str, str]:
    """Return the environment of a JVM of the cluster."""
    home = java.spark_home()
    core = next((home / "jars").glob("spark-core_*.jar"), Path("spark-core_2.13-4.jar"))
    return {
        **os.environ,
        _SECRET: args["secret"],
        "JAVA_HOME": str(found.home),
        "SPARK_HOME": str(home),
        "SPARK_SCALA_VERSION": core.name.split("_")[1].partition("-")[0],
        "SPARK_LOCAL_IP": HOST,
        "SPARK_LOCAL_HOSTNAME": HOST,
        "SPARK_LOCAL_DIRS": ",".join(_local(folder, args.get("folders", ()))),
    }


def local(folder: Path, args: Mapping[str, Any]) -> Path:
    """Return a folder for what is large and goes with the cluster."""
    return Path(next(_local(folder, args.get("folders", ()))))


def _local(folder: Path, elsewhere: Sequence[str]) -> Iterator[str]:
    """Yield where JVMs write what does not fit into memory.

    Elsewhere these are folders for the owner alone, which go with the cluster's: links in that lead
    to them.

    Raises
    ------
    OSError
        One cannot be made, or somebody else has made it.
    """
    if not elsewhere:
        yield str(folder / "spark" / "local")
    for number, place in enumerate(elsewhere):
        local = Path(place).absolute() / f"flyte-jupyter-{folder.name}"
        # First the link: whoever is killed in between, what has been made is found.
        with contextlib.suppress(FileExistsError):
            (folder / f"elsewhere-{number}").symlink_to(local)
        with contextlib.suppress(FileExistsError):
            local.mkdir(mode=0o700, parents=True)
        found = local.lstat()
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{local} must belong to you alone")
        yield str(local)


def write_properties(path: Path, settings: Mapping[str, str]) -> str:
    """Write settings to a file that only the owner can read, and return its path."""
    text = "".join(f"{_escaped(key)}={_escaped(value)}\n" for key, value in settings.items())
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    return str(path)


def _escaped(text: str) -> str:
    """Write a key or a value as `java.util.Properties` reads it: backslashes, and ASCII alone."""
    units = text.encode("utf-16-be")
    characters = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    plain = frozenset(map(ord, "./-_+,;()[]{}<>|&%$?*@'\"")) | {
        code for code in range(128) if chr(code).isalnum()
    }
    return "".join(chr(c) if c in plain else f"\\u{c:04x}" for c in characters)
