"""The supervisor's side of its zygote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flyte_jupyter.backends.local import processes
from flyte_jupyter.backends.local.channel import Channel
from flyte_jupyter.backends.local.python_process import start_python
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder


class ZygoteProcess:
    """A running zygote. What it is told it does in order.

    Parameters
    ----------
    folder
        The cluster's folder, where its log is.
    method
        ``fork`` or ``spawn``.
    environ
        Environment variables of the cluster, beside this process's own.
    """

    def __init__(self, folder: RuntimeFolder, method: str, environ: Mapping[str, str]) -> None:
        log_path = folder.path / "logs" / "zygote.log"
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process, sock = start_python(
                "flyte_jupyter.backends.local.zygote",
                [method, str(os.getpid())],
                {**os.environ, **environ, processes.MARK: folder.mark},
                stdout=log,
                stderr=log,
            )
        finally:
            os.close(log)
        self.pid = process.pid
        process.returncode = 0  # reaped with everybody else, in `processes.reap`
        self.channel = Channel(sock)

    def search(self, path: Sequence[str]) -> None:
        """Have it look for modules where the notebook does."""
        self.channel.send({"do": "search", "path": list(path)})

    def preload(self, modules: Sequence[str], *, optional: bool = False) -> None:
        """Have it import modules for all members that are started later."""
        if modules:
            order = {"do": "import", "modules": list(modules), "optional": optional}
            self.channel.send(order)

    def prepare(self, target: str, folder: Path) -> None:
        """Have it run the engine's preparation."""
        self.channel.send({"do": "prepare", "target": target, "folder": str(folder)})

    def start(self, order: Any, fd: int) -> None:
        """Have it start a member, whose channel is `fd`."""
        self.channel.send({"do": "start", "order": order}, [fd])

    def signal(self, member: str, number: int) -> None:
        """Have it signal a member, if that still lives."""
        self.channel.send({"do": "signal", "id": member, "number": number})
