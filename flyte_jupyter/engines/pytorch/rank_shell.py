"""The IPython shell of a rank: made once in its node, and forked with it.

What it displays goes to the driver, which publishes it in the notebook's cell.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import comm
from comm.base_comm import BaseComm
from ipykernel.jsonutil import json_clean
from jupyter_client.session import Session
from traitlets.config import Config

from flyte_jupyter.driver import nested
from flyte_jupyter.driver.shell import DriverShell
from flyte_jupyter.engines.pytorch.frames import FrameSocket


class RankSession(Session):
    """Stands where a kernel has its session: what is sent goes to the driver, if anywhere."""

    link: FrameSocket | None = None

    def send(  # type: ignore[override]
        self, stream: Any, msg_or_type: Any, content: Any = None, **more: Any
    ) -> Any:
        """Send a message of the output channel."""
        del stream
        message = msg_or_type
        if isinstance(message, str):
            message = {"content": content or {}, "metadata": more.get("metadata")}
        else:
            msg_or_type = message["header"]["msg_type"]
        if self.link is not None:
            self.link.say(
                "publish",
                kind=msg_or_type,
                content=message["content"],
                metadata=message.get("metadata") or {},
                buffers=[bytes(buffer) for buffer in more.get("buffers") or ()],
            )


class RankComm(BaseComm):
    """A comm that the notebook hears, and that hears nothing: ranks end with their cell."""

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: Any = None,
        buffers: Any = None,
        **keys: Any,
    ) -> None:
        """Send a message of this comm."""
        content = json_clean({"data": data or {}, "comm_id": self.comm_id, **keys})
        session: Any = _session()
        session.send(None, msg_type, content, metadata=json_clean(metadata or {}), buffers=buffers)


def _session() -> RankSession:
    session: RankSession = DriverShell.instance().display_pub.session
    return session


def make_shell() -> DriverShell:
    """Make the shell that the ranks of this node will find."""
    config = Config()
    config.HistoryManager.enabled = False
    shell: Any = DriverShell.instance(config=config, user_ns={})
    session = RankSession(config=config)
    shell.display_pub.session = shell.displayhook.session = session
    shell.display_pub.pub_socket = shell.displayhook.pub_socket = None
    comm.create_comm = RankComm
    nested.register(shell)
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return shell  # type: ignore[no-any-return]


class RankStream(io.TextIOBase):
    """A rank's stdout or stderr: each piece of text is sent at once.

    Parameters
    ----------
    link
        The connection to the driver.
    letter
        Of its frames.
    fd
        The descriptor of the same name, for C code, and for forked children: these cannot share
        the connection.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, link: FrameSocket, letter: bytes, fd: int) -> None:
        self._link, self._letter, self._fd = link, letter, fd
        self._pid = os.getpid()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for child processes."""
        return self._fd

    def isatty(self) -> bool:
        """Return False."""
        return False

    def write(self, text: str) -> int:
        """Send text."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        data = text.encode(errors="replace")
        if os.getpid() != self._pid:
            os.write(self._fd, data)
        elif data:
            self._link.send(self._letter, data)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:  # type: ignore[override]
        """Send several pieces of text as one."""
        self.write("".join(lines))


def redirect(link: FrameSocket, letters: tuple[bytes, bytes]) -> tuple[int, int]:
    """Send what this process prints to the driver; returns what to give the driver to read.

    Python's streams go over the connection. Descriptors 1 and 2 become pipes, whose ends for
    reading the driver gets: what C code writes just before it crashes is in them.
    """
    ends = []
    for number, name, letter in ((1, "stdout", letters[0]), (2, "stderr", letters[1])):
        read, write = os.pipe()
        os.dup2(write, number)
        os.close(write)
        ends.append(read)
        stream = RankStream(link, letter, number)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return ends[0], ends[1]
