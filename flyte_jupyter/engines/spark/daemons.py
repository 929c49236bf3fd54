"""What runs in the processes of the master and the workers: a JVM each, and who looks after it.

The process that the backend starts stays, small, beside its JVM: it says when that is ready, hands
on what it logs, and takes it along when it goes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flyte_jupyter.engines.engine import Member
from flyte_jupyter.engines.spark import java, layout, retiring, trampoline
from flyte_jupyter.engines.spark.pages import Pages
from flyte_jupyter.engines.spark.refusals import Endings

_MASTER = "org.apache.spark.deploy.master.Master"
_WORKER = "org.apache.spark.deploy.worker.Worker"
_LOOK = 1.0
"""Seconds between two looks at what executors have logged."""


def prepare(folder: Path) -> dict[str, Any]:
    """Make what all processes of the cluster share."""
    return layout.make(folder)


def run_master(member: Member) -> None:
    """Be the master, and serve Spark's web pages to who knows their path."""
    pages = Pages(member.folder, member.args["pages_key"], member.args["pages_token"])
    address: list[str] = []

    def read(line: str) -> None:
        if match := re.search(r"Starting Spark master at (spark://\S+)", line):
            address.append(match[1])
        elif match := re.search(r"MasterWebUI.* started at http://\S+?:(\d+)", line):
            pages.ports["master"] = int(match[1])
        elif "New state: ALIVE" in line:
            member.ready(address=address[0], pages=pages.serve(), ui=member.args["ui"])

    _be(_start(member, _MASTER), read)


def run_worker(member: Member) -> None:
    """Be a worker, and have what its executors log in its own log."""
    address = member.wait_for("master")["address"]
    folder = member.folder / "spark" / f"work-{member.index}"
    shutil.rmtree(folder, ignore_errors=True)  # of one that has died
    folder.mkdir(mode=0o700)
    size = ("--cores", str(member.args["cores"]), "--memory", f"{member.args['memory']}M")
    process = _start(member, _WORKER, *size, "--work-dir", str(folder), address)
    logs = ExecutorLogs(folder)
    threading.Thread(target=logs.follow, name="executors", daemon=True).start()
    endings = Endings(member.folder, folder)

    def read(line: str) -> None:
        endings.read(line)
        if "Successfully registered with master" in line:
            member.ready(name=f"{member.role}-{member.index}", jvm=process.pid)

    _be(process, read)


def _start(member: Member, main: str, *arguments: str) -> subprocess.Popen[bytes]:
    found = java.find_java()
    name = f"{member.role}-{member.index}.conf"
    properties = layout.write_properties(
        member.folder / "spark" / name, {**retiring.SETTINGS, **layout.guarded(member.args)}
    )
    command = java.command(
        found,
        (*java.DAEMON, *layout.options(member.folder), "-Dflyte.level=info"),
        main,
        *("--host", layout.HOST, "--port", "0", "--webui-port", "0"),
        *("--properties-file", properties),
        *arguments,
    )
    variables = layout.environ(member.folder, member.args, found)
    if cores := member.args.get("cores"):  # for the executors, which inherit it
        before = variables.get("JDK_JAVA_OPTIONS", "")
        variables["JDK_JAVA_OPTIONS"] = f"{java.limited(cores)} {before}".strip()
    return trampoline.start(command, variables)


def _be(process: subprocess.Popen[bytes], read: Callable[[str], None]) -> None:
    """Hand on what a JVM logs, and end as it ends."""
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.decode(errors="replace")
        sys.stdout.write(line)
        sys.stdout.flush()
        read(line)
    code = process.wait()
    if code < 0:  # the supervisor tells what killed it
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    raise SystemExit(code)


class ExecutorLogs:
    """Copies what the executors of a worker print and log into the worker's own log.

    Parameters
    ----------
    folder
        The worker's, in which each executor has a folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._pause = threading.Event()

    def follow(self) -> None:
        """Copy for as long as the process lives."""
        while not self._pause.wait(_LOOK):
            self.copy()

    def copy(self) -> None:
        """Copy what is new, whole lines of it."""
        for path in sorted(self._folder.glob("app-*/*/std*")):
            try:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    text = file.read()
            except OSError:
                continue
            text = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(text)
            for line in text.decode(errors="replace").splitlines():
                if line:
                    print(f"executor {path.parent.name}: {line}")
            sys.stdout.flush()
