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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """One package to install, and where it comes from if that is no index."""

    name: str
    version: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.name} @ {self.url}" if self.url else f"{self.name}=={self.version}"


class Installer(Protocol):
    """What pip and uv are asked."""

    name: str

    def resolve(
        self, layer: PackageLayer, present: Mapping[str, str], target: Path, progress: Progress
    ) -> list[Pin]:
        """Return what has to be added.

        Parameters
        ----------
        layer
            What is asked for.
        present
            Versions that there are and that must stay, by name.
        target
            The folder of packages added so far.
        progress
            Told what is being done.

        Raises
        ------
        ImageError
            There is no such set of packages, or the index cannot be reached.
        """

    def install(
        self, layer: PackageLayer, pins: Sequence[Pin], target: Path, progress: Progress
    ) -> None:
        """Put packages, and nothing that they depend on, into a folder.

        Raises
        ------
        ImageError
            One cannot be fetched, built or unpacked.
        """


class Pip:
    """The kernel's own pip, with its settings."""

    name = "pip"

    def resolve(
        self, layer: PackageLayer, present: Mapping[str, str], target: Path, progress: Progress
    ) -> list[Pin]:
        """Return what has to be added; `Installer.resolve` says more."""
        with tempfile.TemporaryDirectory(prefix="flyte-packages-") as folder:
            constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
            constraints.write_text(_as_lines(present))
            words = ["--dry-run", "--report", str(report), "--constraint", str(constraints)]
            self._run(layer, layer.requirements, words, target, progress)
            items = json.loads(report.read_text())["install"]
        return [_reported(item) for item in items]

    def install(
        self, layer: PackageLayer, pins: Sequence[Pin], target: Path, progress: Progress
    ) -> None:
        """Put packages into a folder; `Installer.install` says more."""
        words = ["--target", str(target), "--no-deps", "--upgrade"]
        self._run(replace(layer, files=()), list(map(str, pins)), words, target, progress)

    @staticmethod
    def _run(
        layer: PackageLayer,
        requirements: Sequence[str],
        words: Sequence[str],
        target: Path,
        progress: Progress,
    ) -> None:
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        command = [sys.executable, "-P", "-m", "pip", "install", *options, *words]
        # What was added by the layers before counts as installed.
        path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH", "")]))
        environ = {**os.environ, "PYTHONPATH": path}
        environ.setdefault("PIP_RETRIES", "1")  # five take half a minute to say "offline"
        _carry_out(layer, requirements, command, environ, progress)


class Uv:
    """uv, for kernels without pip."""

    name = "uv"

    def __init__(self, executable: str) -> None:
        self._executable = executable

    def resolve(
        self, layer: PackageLayer, present: Mapping[str, str], target: Path, progress: Progress
    ) -> list[Pin]:
        """Return what has to be added; `Installer.resolve` says more."""
        with tempfile.TemporaryDirectory(prefix="flyte-packages-") as folder:
            constraints = Path(folder, "constraints.txt")
            constraints.write_text(_as_lines(present))
            words = ["--dry-run", "--constraint", str(constraints)]
            text = self._run(layer, layer.requirements, words, progress)
        found = [_PLANNED.fullmatch(line.strip()) for line in text.splitlines()]
        return [Pin(m["name"], m["version"], m["url"] or "") for m in found if m]

    def install(
        self, layer: PackageLayer, pins: Sequence[Pin], target: Path, progress: Progress
    ) -> None:
        """Put packages into a folder; `Installer.install` says more."""
        words = ["--target", str(target), "--no-deps"]
        self._run(replace(layer, files=()), list(map(str, pins)), words, progress)

    def _run(
        self,
        layer: PackageLayer,
        requirements: Sequence[str],
        words: Sequence[str],
        progress: Progress,
    ) -> str:
        options = ["--python", sys.executable, "--break-system-packages", "--no-progress"]
        command = [self._executable, "pip", "install", *options, *words]
        environ = {**os.environ, "NO_COLOR": "1"}
        return _carry_out(layer, requirements, command, environ, progress)


_PLANNED = re.compile(r"\+ (?P<name>\S+?)==(?P<version>\S+)(?: \(from (?P<url>\S+)\))?")


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


def _as_lines(present: Mapping[str, str]) -> str:
    return "".join(f"{name}=={version}\n" for name, version in present.items())


def _asked(layer: PackageLayer, requirements: Sequence[str]) -> str:
    """Return what is asked for as a requirements file; a command line anybody can read."""
    main, *further = layer.indexes or ("",)
    lines = [f"--index-url {main}"] if main else []
    lines += [f"--extra-index-url {each}" for each in further]
    lines += [f"--requirement {file}" for file in layer.files]
    return "".join(f"{line}\n" for line in [*lines, *requirements])


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


def _carry_out(
    layer: PackageLayer,
    requirements: Sequence[str],
    command: Sequence[str],
    environ: Mapping[str, str],
    progress: Progress,
) -> str:
    """Run an installer, and say in one line what it says in many when it fails."""
    with tempfile.TemporaryDirectory(prefix="flyte-packages-") as folder:
        asked = Path(folder, "asked.txt")
        asked.write_text(_asked(layer, requirements))
        words = [*command, *layer.arguments, "--requirement", str(asked)]
        try:
            return output_of(words, environ, lambda line: _tell(line, progress))
        except CommandFailed as failure:
            raise explained(layer, failure.output) from None


_STEPS = ("Collecting", "Downloading", "Processing", "Building", "Preparing", "Resolved", "Cloning")


def _tell(line: str, progress: Progress) -> None:
    if line.startswith(_STEPS):
        progress(line)
