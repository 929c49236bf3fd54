"""A backend as a process of its own, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flyteidl2.task import task_definition_pb2

from tests.flyte_backend.store import KEY, REGION, SECRET

_ROOT = Path(__file__).resolve().parents[2]


class Running(NamedTuple):
    """A backend that runs: where it and its store answer, and where its files are."""

    endpoint: str
    store: str
    folder: Path

    @property
    def init(self) -> str:
        """Code that configures the SDK for it."""
        return (
            "import flyte, flyte.storage\n"
            f"flyte.init(endpoint={self.endpoint!r}, insecure=True, org='org', "
            "project='project', domain='development', storage=flyte.storage.S3("
            f"endpoint={self.store!r}, access_key_id={KEY!r}, secret_access_key={SECRET!r}, "
            f"region={REGION!r}))"
        )

    def specs(self) -> dict[str, Any]:
        """Return the task of each action so far, by run and action."""
        read = task_definition_pb2.TaskSpec.FromString
        return {
            f"{path.parent.name}/{path.stem}": read(path.read_bytes())
            for path in sorted(self.folder.glob("*/*.pb"))
        }

    def asked_for(self) -> list[str]:
        """Return the names of runs that are called ``slow`` and are not let in yet."""
        names = [path.stem for path in self.folder.glob("*.asked")]
        return [name for name in names if not (self.folder / f"{name}.let_in").exists()]

    def let_in(self, name: str) -> None:
        """Take a run that is called ``slow``."""
        (self.folder / f"{name}.let_in").touch()


@contextlib.contextmanager
def backend(folder: Path) -> Iterator[Running]:
    """Run a backend."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flyte_backend", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Running(*process.stdout.readline().split(), folder)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
