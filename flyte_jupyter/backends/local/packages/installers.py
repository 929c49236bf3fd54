"""pip and uv: the two that know how to find, choose and install packages.

Both are asked the same two things: what has to be added to the kernel's environment for it to have
something, every version in it staying as it is; and to put exactly that into a folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from flyte_jupyter.backends.local.packages.commands import CommandFailed, output_of
from flyte_jupyter.backends.local.packages.failures import explained
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError

Progress: TypeAlias = Callable[[str], None]
"""Called with what is being done, a few words each time."""


@dataclass(frozen=True)
class Pin:
    """One package to install: its version, where it comes from if that is no index, or both."""

    name: str
    version: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.name} @ {self.url}" if self.url else f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Work:
    """One layer on its way into a folder.

    Parameters
    ----------
    layer
        What is asked for.
    target
        The folder of packages, with those of the layers before.
    progress
        Told what is being done.
    """

    layer: PackageLayer
    target: Path
    progress: Progress

    def beside(self) -> tempfile.TemporaryDirectory[str]:
        """Return a folder that goes with what is being made, if not by itself."""
        return tempfile.TemporaryDirectory(dir=self.target.parent)

    def run(self, command: Sequence[str], asked: Sequence[str], environ: Mapping[str, str]) -> str:
        """Run an installer with requirements, and return what it wrote.

        Raises
        ------
        ImageError
            It failed; what it said in many lines is said in one.
        """
        with self.beside() as folder:
            file = Path(folder, "asked.txt")
            file.write_text(self._requirements(asked))
            words = [*command, *self.layer.arguments, "--requirement", str(file)]
            try:
                # What a killed installer leaves goes with what it was to make.
                return output_of(words, {**environ, "TMPDIR": folder}, self._hear)
            except CommandFailed as failure:
                raise explained(self.layer, failure.output) from None

    def _requirements(self, asked: Sequence[str]) -> str:
        """Return the text of a requirements file: a command line anybody can read."""
        main, *further = self.layer.indexes or ("",)
        lines = [f"--index-url {main}"] if main else []
        lines += [f"--extra-index-url {each}" for each in further]
        return _lines([*lines, *asked])

    def _hear(self, line: str) -> None:
        if line.startswith(_STEPS):
            self.progress(line.partition(" (from -r")[0])


class Installer(Protocol):
    """What pip and uv are asked."""

    name: str

    def resolve(self, work: Work, present: Mapping[str, str]) -> list[Pin]:
        """Return what has to be added.

        Parameters
        ----------
        work
            What is asked for, and what has been added so far.
        present
            Versions that there are and that must stay, by name.

        Raises
        ------
        ImageError
            There is no such set of packages, or the index cannot be reached.
        """

    def install(self, work: Work, pins: Sequence[Pin]) -> None:
        """Put packages, and nothing that they depend on, into the folder.

        Raises
        ------
        ImageError
            One cannot be fetched, built or unpacked.
        """


class Pip:
    """The kernel's own pip, with its settings."""

    name = "pip"

    def resolve(self, work: Work, present: Mapping[str, str]) -> list[Pin]:
        """Return what has to be added; `Installer.resolve` says more."""
        with work.beside() as folder:
            constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
            constraints.write_text(_lines(_pins(present)))
            words = ["--dry-run", "--report", str(report), "--constraint", str(constraints)]
            self._run(work, words, _asked(work.layer))
            items = json.loads(report.read_text())["install"]
        return [_reported(item) for item in items]

    def install(self, work: Work, pins: Sequence[Pin]) -> None:
        """Put packages into the folder; `Installer.install` says more."""
        words = ["--target", str(work.target), "--no-deps", "--upgrade"]
        self._run(work, words, list(map(str, pins)))

    @staticmethod
    def _run(work: Work, words: Sequence[str], asked: Sequence[str]) -> None:
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        command = [sys.executable, "-P", "-m", "pip", "install", *options, *words]
        # What was added by the layers before counts as installed.
        path = os.pathsep.join(filter(None, [str(work.target), os.environ.get("PYTHONPATH", "")]))
        environ = {**os.environ, "PYTHONPATH": path}
        environ.setdefault("PIP_RETRIES", "1")  # five take half a minute to say "offline"
        work.run(command, asked, environ)


class Uv:
    """uv, for kernels without pip."""

    name = "uv"

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def resolve(self, work: Work, present: Mapping[str, str]) -> list[Pin]:
        """Return what has to be added; `Installer.resolve` says more."""
        with work.beside() as folder:
            constraints = Path(folder, "constraints.txt")
            constraints.write_text(_lines(_pins(present)))
            words = ["--dry-run", "--constraint", str(constraints)]
            text = self._run(work, words, _asked(work.layer))
        found = [_PLANNED.fullmatch(line.strip()) for line in text.splitlines()]
        return [Pin(m["name"], m["version"] or "", m["at"] or m["from"] or "") for m in found if m]

    def install(self, work: Work, pins: Sequence[Pin]) -> None:
        """Put packages into the folder; `Installer.install` says more."""
        self._run(work, ["--target", str(work.target), "--no-deps"], list(map(str, pins)))

    def _run(self, work: Work, words: Sequence[str], asked: Sequence[str]) -> str:
        options = ["--python", sys.executable, "--break-system-packages", "--no-progress"]
        command = [self._executable, "pip", "install", *options, *words]
        return work.run(command, asked, {**os.environ, "NO_COLOR": "1"})


_STEPS = ("Collecting", "Downloading", "Processing", "Building", "Preparing", "Resolved", "Cloning")
_PLANNED = re.compile(
    r"\+ (?P<name>[^\s=]+)(?:==(?P<version>\S+)(?: \(from (?P<from>\S+)\))?| @ (?P<at>\S+))"
)


def find_installer(asked: str) -> Installer:
    """Return what installs packages here.

    Parameters
    ----------
    asked
        ``pip``, ``uv``, or ``auto`` for the kernel's own pip, else uv: pip has the settings
        by which the kernel's environment was made.

    Raises
    ------
    ImageError
        It is not there.
    """
    if asked != "uv" and importlib.util.find_spec("pip") is not None:
        return Pip()
    if asked != "pip" and (executable := _uv()):
        return Uv(executable)
    what = "neither pip nor uv" if asked == "auto" else f"no {asked}"
    raise ImageError(
        "packages of an image cannot be installed",
        seen=f"{what} is found",
        fix="Type: !python -m ensurepip" if asked != "uv" else "Type: %pip install uv",
    )


def _uv() -> str | None:
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return str(find_uv_bin())
    return shutil.which("uv")


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _pins(present: Mapping[str, str]) -> Iterator[str]:
    return (f"{name}=={version}" for name, version in present.items() if version)


def _asked(layer: PackageLayer) -> list[str]:
    return [*(f"--requirement {file}" for file in layer.files), *layer.requirements]


def _reported(item: Mapping[str, object]) -> Pin:
    """Read one entry of pip's installation report."""
    metadata, info = item["metadata"], item["download_info"]
    assert isinstance(metadata, dict)
    assert isinstance(info, dict)
    url = ""
    if item.get("is_direct"):
        url = info["url"]
        if vcs := info.get("vcs_info"):
            url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        if subdirectory := info.get("subdirectory"):
            url += f"#subdirectory={subdirectory}"
    return Pin(metadata["name"], metadata["version"], url)
