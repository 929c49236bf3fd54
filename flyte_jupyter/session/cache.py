"""Results of cells that ran before, for environments that ask for a cache.

The key is what Flyte's is for a task: the environment, the code (its syntax tree, so that comments
and blank lines do not count), and the inputs by content, functions that the cell uses among them.
Results lie in a private folder of the user's, so a restarted kernel finds them again. Text and
pictures of the first run are not kept; one line says that nothing was run.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from jupyter_core.paths import jupyter_data_dir

from flyte_jupyter.driver import transfer
from flyte_jupyter.errors import CaptureError
from flyte_jupyter.session.refs import Ref
from flyte_jupyter.session.runs import CellTask

_FORMAT = b"flyte-jupyter cache 1\n"


class CellCache:
    """The cache of one session.

    Parameters
    ----------
    folder
        Where results are kept, made when the first one is; empty for the user's data folder.
    limit
        Bytes after which the results that were used longest ago are removed.
    transform
        Turns a cell's text into Python.
    """

    def __init__(self, folder: str, limit: int, transform: Callable[[str], str]) -> None:
        self._chosen, self._limit, self._transform = folder, limit, transform

    @property
    def _folder(self) -> Path:
        # Not before it is needed: most runs ask for no cache, and Jupyter looks hard for its place.
        if self._chosen:
            return Path(self._chosen)
        return Path(jupyter_data_dir()) / "flyte_jupyter" / "cache"

    def key(self, declared: Any, task: CellTask) -> str:
        """Return the key of a run; empty if it is not to be cached.

        Parameters
        ----------
        declared
            The `flyte.TaskEnvironment`.
        task
            What would run.
        """
        if not task.returns or task.keeps:
            return ""
        policy = _policy(declared.cache)
        if not policy.is_enabled():
            return ""
        values = {k: v for k, v in task.values.items() if k not in policy.get_ignored_inputs()}
        if any(isinstance(value, Ref) for value in values.values()):
            return ""
        try:
            parcel = transfer.pack(dict(sorted(values.items())), shared=False)
        except CaptureError:
            return ""  # it is named when the values are packed to be sent
        version = policy.version_override or self._code(task.code)
        about = [declared.name, task.name, *task.returns, policy.salt, version, *sorted(values)]
        digest = hashlib.sha256("\0".join(about).encode())
        for frame in parcel.frames:
            digest.update(frame)
        parcel.close()
        return digest.hexdigest()

    def _code(self, body: str) -> str:
        return ast.dump(ast.parse(self._transform(body)))

    def read(self, declared: Any, key: str) -> tuple[dict[str, Any], str] | None:
        """Return the outputs kept under a key and when they were made; None if there are none."""
        policy = _policy(declared.cache)
        path = self._folder / key
        if policy.behavior != "auto":
            return None  # "override" runs anew and replaces what is kept
        with contextlib.suppress(OSError, ValueError, CaptureError):
            made = path.stat().st_mtime
            age = policy.max_age.total_seconds() if policy.max_age else float("inf")
            if time.time() - made > age:
                return None
            outputs = _load(path.read_bytes())
            return outputs, time.strftime("%Y-%m-%d %H:%M", time.localtime(made))
        return None

    def write(self, key: str, outputs: Mapping[str, object]) -> None:
        """Keep outputs under a key, unless they alone are beyond the limit."""
        parcel = transfer.pack(outputs, shared=False)
        size = sum(len(frame) for frame in parcel.frames)
        if size > self._limit:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(size)
        # Written aside and renamed: a kernel that is killed leaves no half of a result.
        aside = self._folder / f".{key}-{secrets.token_hex(4)}"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        header = {"parcel": parcel.header, "frames": [len(frame) for frame in parcel.frames]}
        with os.fdopen(fd, "wb") as file:
            file.write(_FORMAT + json.dumps(header).encode() + b"\n")
            for frame in parcel.frames:
                file.write(frame)
        aside.rename(self._folder / key)
        parcel.close()

    def _make_room(self, size: int) -> None:
        entries = sorted((path.stat().st_mtime, path) for path in self._folder.iterdir())
        total = sum(path.stat().st_size for _, path in entries) + size
        for _, path in entries:
            if total <= self._limit:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def _load(data: bytes) -> dict[str, Any]:
    if not data.startswith(_FORMAT):
        raise ValueError("not a cached result")
    line, _, rest = data[len(_FORMAT) :].partition(b"\n")
    header = json.loads(line)
    frames, start = [], 0
    for length in header["frames"]:
        frames.append(bytearray(rest[start : start + length]))
        start += length
    return transfer.unpack(header["parcel"], [memoryview(frame) for frame in frames])


def _policy(request: Any) -> Any:
    from flyte import Cache

    return Cache(behavior=cast(Any, request)) if isinstance(request, str) else request
