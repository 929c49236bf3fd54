"""Which rank's text is shown in the notebook, and where the rest can be read."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from flyte_jupyter.errors import UsageError

_END_OF_LINE = re.compile(r"(?<=[\n\r])")


def shown_ranks(text: str, world: int) -> frozenset[int]:
    """Read ``--ranks``: ``all``, numbers with commas, or nothing for rank 0.

    Raises
    ------
    UsageError
        It is none of these, or no rank has that number.
    """
    if text == "all":
        return frozenset(range(world))
    words = [word.strip() for word in text.split(",") if word.strip()] or ["0"]
    if wrong := [word for word in words if not word.isdecimal() or int(word) >= world]:
        raise UsageError(
            f"--ranks takes `all`, or numbers from 0 to {world - 1}",
            seen=repr(wrong[0]),
        )
    return frozenset(map(int, words))


class Screen:
    """Shows text of ranks, and writes all of it to the logs of their nodes.

    Parameters
    ----------
    write
        Shows text in the notebook: stream, text.
    shown
        The ranks to show; with more than rank 0, each line says whose it is.
    logs
        Folder of the logs.
    """

    def __init__(
        self, write: Callable[[str, str], None], shown: frozenset[int], logs: Path
    ) -> None:
        self._write, self._shown, self._logs = write, shown, logs
        self._labelled = shown != {0}
        self._rest: dict[tuple[int, str], list[str]] = {}
        self._decoders: dict[tuple[int, str], codecs.IncrementalDecoder] = {}
        self._nodes: dict[tuple[int, str], int] = {}

    def text(self, rank: int, node: int, stream: str, data: bytes) -> None:
        """Take in text of a rank."""
        key = (rank, stream)
        if key not in self._decoders:
            self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._decoders[key].decode(data)
        if not text:
            return
        begun = self._rest.setdefault(key, [])
        *lines, rest = _END_OF_LINE.split(text)
        if lines:
            lines[0] = "".join([*begun, lines[0]])
            begun.clear()
        labelled = "".join(f"[rank {rank}] {line}" for line in lines)
        if rest:
            begun.append(rest)
            self._nodes[key] = node
        self._log(node, labelled)
        if rank in self._shown:
            shown = labelled if self._labelled else text
            if shown:
                self._write(stream, shown)

    def finish(self) -> None:
        """Take what is left of lines that have no end for lines."""
        for (rank, stream), pieces in sorted(self._rest.items()):
            if pieces:
                line = f"[rank {rank}] {''.join(pieces)}\n"
                self._log(self._nodes[rank, stream], line)
                if self._labelled and rank in self._shown:
                    self._write(stream, line)
        self._rest.clear()

    def _log(self, node: int, text: str) -> None:
        if text:
            with contextlib.suppress(OSError):  # a full disk must not keep text from the notebook
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                fd = os.open(self._logs / f"node-{node}.log", flags, 0o600)
                try:
                    os.write(fd, text.encode(errors="replace"))
                finally:
                    os.close(fd)
