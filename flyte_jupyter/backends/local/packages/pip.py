"""Installing with pip into an environment that has the kernel's packages, and takes more."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from packaging.version import Version

from flyte_jupyter.backends.local.packages import kernel
from flyte_jupyter.backends.local.packages.commands import CommandFailed, output_of
from flyte_jupyter.backends.local.packages.failures import explained
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError

Progress: TypeAlias = Callable[[str], None]
"""Called with what is being done, a few words each time."""

_PRIVATE = {"-i", "--index-url", "--extra-index-url", "-f", "--find-links"}
"""Options that have an address."""
_STEPS = ("Collecting", "Downloading", "Processing", "Building", "Installing", "Cloning")
_LEAST = Version("22.3")
"""The first pip that installs for another Python."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that finds the kernel's packages after its own.

    pip takes those for installed: it leaves them alone and adds what is missing.

    Parameters
    ----------
    path
        Where it is.
    """

    path: Path

    @property
    def packages(self) -> Path:
        """The folder of its own packages."""
        version = ".".join(map(str, sys.version_info[:2]))
        return self.path / "lib" / f"python{version}" / "site-packages"

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.path / "bin" / "python"

    def make(self) -> None:
        """Make it.

        Raises
        ------
        ImageError
            Neither the kernel nor Python itself has a pip.
        """
        self.path.mkdir(mode=0o700)  # what is asked for lies there, with passwords of indexes
        venv.EnvBuilder(symlinks=True).create(self.path)
        (self.packages / "_kernel.pth").write_text(_lines(kernel.folders()))
        if not has_pip():
            self._bring_pip()

    def _bring_pip(self) -> None:
        command = [str(self.python), "-m", "ensurepip", "--default-pip"]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise ImageError(
                "packages of an image cannot be installed",
                seen="this environment has no pip",
                fix="Type: !uv pip install pip, or !python -m ensurepip",
            )

    def install(self, layer: PackageLayer, keep: Mapping[str, str], progress: Progress) -> None:
        """Add what a layer asks for.

        Parameters
        ----------
        layer
            What is asked for.
        keep
            Versions that have to stay as they are, by name.
        progress
            Told what is being done.

        Raises
        ------
        ImageError
            There is no such set of packages, or they cannot be fetched or built.
        """
        constraints, asked = self.path / "constraints.txt", self.path / "asked.txt"
        constraints.write_text(_lines(f"{name}=={version}" for name, version in keep.items()))
        # In a file, for a command line anybody can read, and an index may have a password.
        private, words = _divided(layer.arguments)
        asked.write_text(_lines([*private, *_asked(layer)]))
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        command = [
            *(self._pip()),
            "install",
            *options,
            "--constraint",
            str(constraints),
            *words,
            "--requirement",
            str(asked),
        ]

        def hear(line: str) -> None:
            if line.startswith(_STEPS):
                progress(line.partition(" (from -r")[0])

        try:
            output_of(command, self._environ(), hear)
        except CommandFailed as failure:
            raise explained(layer, failure.output) from None
        finally:
            asked.unlink()
            constraints.unlink()

    def _pip(self) -> list[str]:
        if has_pip():
            return [sys.executable, "-P", "-m", "pip", "--python", str(self.python)]
        return [str(self.python), "-m", "pip"]

    def _environ(self) -> dict[str, str]:
        # What a killed pip leaves goes with what it was to make.
        temporary = self.path / "tmp"
        temporary.mkdir(exist_ok=True)
        environ = {**os.environ, "PIP_USER": "0", "TMPDIR": str(temporary)}
        environ.setdefault("PIP_RETRIES", "1")  # five take half a minute to say "offline"
        return environ


def has_pip() -> bool:
    """Whether the kernel has a pip that can install for another environment."""
    if importlib.util.find_spec("pip") is None:
        return False
    return Version(importlib.metadata.version("pip")) >= _LEAST


def _asked(layer: PackageLayer) -> list[str]:
    main, *further = layer.indexes or ("",)
    lines = [f"--index-url {main}"] if main else []
    lines += [f"--extra-index-url {each}" for each in further]
    lines += [f"--requirement {file}" for file in layer.files]
    return [*lines, *layer.requirements]


def _divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide options into lines of a file, where an address may have a password, and words."""
    lines, left, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith(("-i", "-f")) and len(word) > 2 and not word.startswith("--"):
            lines.append(f"{word[:2]} {word[2:]}")
        elif word.partition("=")[0] not in _PRIVATE:
            left.append(word)
        elif "=" in word or not rest:
            lines.append(word)
        else:
            lines.append(f"{word} {rest.pop(0)}")
    return lines, left


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
