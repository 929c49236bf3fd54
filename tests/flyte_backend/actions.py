"""Actions: the processes that stand in for the pods of a run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyteidl2.common import identifier_pb2, phase_pb2
from flyteidl2.core import execution_pb2
from flyteidl2.task import common_pb2, task_definition_pb2
from flyteidl2.workflow import run_definition_pb2

from tests.flyte_backend.store import Store

ENDED = {
    phase_pb2.ACTION_PHASE_SUCCEEDED,
    phase_pb2.ACTION_PHASE_FAILED,
    phase_pb2.ACTION_PHASE_ABORTED,
    phase_pb2.ACTION_PHASE_TIMED_OUT,
}
_ERRORS = run_definition_pb2.ErrorInfo


@dataclass
class Action:
    """One action of a run.

    Parameters
    ----------
    id
        Its name within its run.
    spec
        The task.
    inputs
        URI of its inputs.
    folder
        Where its run's processes have their folders.
    store
        The object store.
    envs
        Environment variables that the run asks for.
    parent
        Name of the action that asked for it; empty for the first.
    """

    id: identifier_pb2.ActionIdentifier
    spec: task_definition_pb2.TaskSpec
    inputs: str
    folder: Path
    store: Store
    envs: dict[str, str]
    parent: str = ""
    phase: int = phase_pb2.ACTION_PHASE_QUEUED
    attempt: int = 1
    lines: list[str] = field(default_factory=list)
    error: tuple[str, str] | None = None
    aborted: str = ""
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _process: asyncio.subprocess.Process | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.id.name

    @property
    def done(self) -> bool:
        return self.phase in ENDED

    @property
    def base(self) -> str:
        """Key below which everything of its run is in the store."""
        return f"runs/{self.id.run.name}"

    @property
    def outputs(self) -> str:
        """Key below which everything of the present attempt is."""
        return f"{self.base}/{self.name}/{self.attempt}"

    # -- life -------------------------------------------------------------------------------

    def start(self, endpoint: str) -> None:
        """Begin to run it."""
        self._task = asyncio.get_running_loop().create_task(self._run(endpoint))

    async def abort(self, reason: str) -> None:
        """End it."""
        if not self.done:
            self.aborted = reason or "aborted"
            self._kill()
            await self._turn(phase_pb2.ACTION_PHASE_ABORTED)

    async def wait(self) -> None:
        """Return when its process has gone."""
        self._kill()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self, endpoint: str) -> None:
        retries = self.spec.task_template.metadata.retries.retries
        for self.attempt in range(1, retries + 2):
            await self._turn(phase_pb2.ACTION_PHASE_INITIALIZING)
            code = await self._attempt(endpoint)
            if self.done:
                return
            if self._read("outputs.pb") is not None or not (code or self._said_error()):
                await self._turn(phase_pb2.ACTION_PHASE_SUCCEEDED)
                return
            if self.error is None:
                self.error = ("Container", f"the container ended with exit code {code}")
        await self._turn(phase_pb2.ACTION_PHASE_FAILED)

    async def _attempt(self, endpoint: str) -> int:
        container, self.error = self.spec.task_template.container, None
        folder = self.folder / f"{self.name}-{self.attempt}"
        folder.mkdir(parents=True)
        self._process = await asyncio.create_subprocess_exec(
            *self._command(container),
            cwd=folder,
            env=self._environment(container, endpoint),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        await self._turn(phase_pb2.ACTION_PHASE_RUNNING)
        limiting = asyncio.get_running_loop().create_task(self._limit())
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
            await self._tell()
        code = await self._process.wait()
        limiting.cancel()
        self._kill()
        shutil.rmtree(folder, ignore_errors=True)
        return code

    async def _limit(self) -> None:
        seconds = self.spec.task_template.metadata.timeout.ToTimedelta().total_seconds()
        if seconds:
            await asyncio.sleep(seconds)
            self._kill()
            await self._turn(phase_pb2.ACTION_PHASE_TIMED_OUT)

    def _command(self, container: Any) -> list[str]:
        known = {
            "{{.input}}": self.inputs,
            "{{.outputPrefix}}": self.store.address(self.outputs),
            "{{.rawOutputDataPrefix}}": self.store.address(f"{self.base}/raw"),
            "{{.checkpointOutputPrefix}}": self.store.address(f"{self.outputs}/checkpoint"),
            "{{.prevCheckpointPrefix}}": "",
            "{{.runName}}": self.id.run.name,
            "{{.actionName}}": self.name,
            "{{.runStartTime}}": "2026-01-01T00:00:00Z",
        }
        words = [known.get(word, word) for word in (*container.command, *container.args)]
        assert words[0] == "a0", words
        return [sys.executable, str(Path(sys.executable).parent / "a0"), *words[1:]]

    def _environment(self, container: Any, endpoint: str) -> dict[str, str]:
        run = self.id.run
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / f"{self.name}-{self.attempt}"),
            **self.store.environment,
            "_U_EP_OVERRIDE": endpoint,
            "_U_INSECURE": "true",
            "_U_ORG_NAME": run.org,
            "_U_RUN_BASE": self.store.address(self.base),
            "FLYTE_INTERNAL_EXECUTION_PROJECT": run.project,
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": run.domain,
            "ACTION_NAME": self.name,
            "RUN_NAME": run.name,
            **{pair.key: pair.value for pair in container.env},
            **self.envs,
        }

    def _said_error(self) -> bool:
        data = self._read("error.pb")
        if data is None:
            return False
        said = execution_pb2.ErrorDocument.FromString(data).error
        self.error = (said.code, said.message)
        return True

    # -- what is known of it ------------------------------------------------------------------

    async def changes(self, of: Any) -> AsyncIterator[Any]:
        """Yield what `of` returns, at first and whenever it is another, until the action's end."""
        last = None
        while True:
            done, now = self.done, of()
            if now != last:
                yield now
                last = now
            if done:
                return
            async with self._changed:
                await self._changed.wait_for(lambda: of() != last or self.done)  # noqa: B023

    async def _turn(self, phase: int) -> None:
        if not self.done:
            self.phase = phase
            if self.done:
                self.ended = time.time()
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def status(self) -> run_definition_pb2.ActionStatus:
        status = run_definition_pb2.ActionStatus(phase=self.phase, attempts=self.attempt)
        status.start_time.FromMilliseconds(int(self.began * 1000))
        if self.ended:
            status.end_time.FromMilliseconds(int(self.ended * 1000))
            status.duration_ms = int((self.ended - self.began) * 1000)
        return status

    def metadata(self) -> run_definition_pb2.ActionMetadata:
        template = self.spec.task_template
        return run_definition_pb2.ActionMetadata(
            parent=self.parent,
            task=run_definition_pb2.TaskActionMetadata(
                id=task_definition_pb2.TaskIdentifier(name=template.id.name),
                task_type=template.type,
                short_name=self.spec.short_name,
            ),
            environment_name=self.spec.environment.name,
        )

    def brief(self) -> run_definition_pb2.Action:
        return run_definition_pb2.Action(id=self.id, metadata=self.metadata(), status=self.status())

    def details(self) -> run_definition_pb2.ActionDetails:
        runs = self.phase not in (
            phase_pb2.ACTION_PHASE_QUEUED,
            phase_pb2.ACTION_PHASE_INITIALIZING,
        )
        attempt = run_definition_pb2.ActionAttempt(
            phase=self.phase, attempt=self.attempt, logs_available=runs
        )
        found = run_definition_pb2.ActionDetails(
            id=self.id,
            metadata=self.metadata(),
            status=self.status(),
            task=self.spec,
            attempts=[attempt] * self.attempt,
        )
        if self.error and self.phase == phase_pb2.ACTION_PHASE_FAILED:
            code, message = self.error
            info = _ERRORS(kind=_ERRORS.KIND_USER, code=code, message=message)
            found.error_info.CopyFrom(info)
        if self.aborted:
            found.abort_info.reason = self.aborted
        return found

    def data(self) -> tuple[common_pb2.Inputs, common_pb2.Outputs | None]:
        """Return inputs, and outputs if there are any."""
        inputs = common_pb2.Inputs.FromString(self.store.read(self.inputs) or b"")
        outputs = self._read("outputs.pb")
        return inputs, None if outputs is None else common_pb2.Outputs.FromString(outputs)

    def _read(self, name: str) -> bytes | None:
        return self.store.read(f"{self.outputs}/{name}")
