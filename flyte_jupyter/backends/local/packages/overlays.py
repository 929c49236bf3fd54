"""Folders of packages, one for each thing that can be asked for, made once and kept.

A folder is named after what was asked and what the kernel has, so that it is found again without
asking an index; it is made aside and renamed when it is whole. Two sessions that want the same one
wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir
from packaging.utils import canonicalize_name

from flyte_jupyter.backends.local.packages import kernel
from flyte_jupyter.backends.local.packages.installers import Pin, Progress, Work, find_installer
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError

_MANIFEST = "packages.json"
_TURN = 0.1


@dataclass(frozen=True)
class Overlay:
    """Packages over those of the kernel.

    Parameters
    ----------
    path
        Where they lie; None if there are none.
    packages
        What they are.
    remarks
        What the user should know of them.
    """

    path: Path | None = None
    packages: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Overlays:
    """Makes overlays, and finds them again.

    Parameters
    ----------
    folder
        Where they are kept, by default in Jupyter's data folder; made when the first one is, for
        this user alone.
    installer
        ``auto``, ``pip`` or ``uv``.
    provided
        Names of packages that count as there, whatever is installed.
    keep
        Whether the kernel's version is taken, and named, where another is asked for.
    """

    def __init__(
        self,
        folder: Path | None = None,
        installer: str = "auto",
        provided: Sequence[str] = (),
        *,
        keep: bool = False,
    ) -> None:
        self._folder = folder or Path(jupyter_data_dir(), "flyte_jupyter", "packages")
        self._installer, self._keep = installer, keep
        self._provided = frozenset(map(canonicalize_name, provided))

    def prepare(self, layers: Sequence[PackageLayer], progress: Progress) -> Overlay:
        """Return what has all that is asked for, making it if it is not there yet; blocks.

        Parameters
        ----------
        layers
            What is asked for.
        progress
            Told what is being done, when something is.

        Raises
        ------
        ImageError
            The kernel has another version of something, or it cannot be installed.
        """
        remarks: list[str] = []
        lacking = [each for layer in layers if (each := self._lacking(layer, remarks))]
        if not lacking:
            return Overlay(remarks=tuple(remarks))
        if self._folder.exists():
            _check_owner(self._folder)
        present = kernel.pins()
        path = self._folder / _key(lacking, present)
        if not (path / _MANIFEST).exists():
            with self._alone(path, progress):
                if not (path / _MANIFEST).exists():
                    self._make(path, lacking, present, progress)
        packages = json.loads((path / _MANIFEST).read_text())["packages"]
        return Overlay(path / "lib", tuple(packages), tuple(remarks))

    def _lacking(self, layer: PackageLayer, remarks: list[str]) -> PackageLayer | None:
        """Return what of a layer has to be installed, if anything."""
        wanted = [line for line in layer.requirements if not self._is_provided(line)]
        found = kernel.compare(wanted)
        if found.conflicts and not self._keep:
            raise ImageError(
                f"{layer.origin} does not go with this kernel",
                seen="; ".join(map(str, found.conflicts)),
                fix="Install what it asks for in the kernel's environment, ask for what the "
                'kernel has, or: %config FlyteJupyter.image_conflicts = "keep"',
            )
        remarks += [f"{conflict}, which is used" for conflict in found.conflicts]
        if not found.requirements and not layer.files:
            return None
        return replace(layer, requirements=found.requirements)

    def _is_provided(self, line: str) -> bool:
        name = kernel.name_of(line)
        return name is not None and name in self._provided

    def _make(
        self,
        path: Path,
        layers: Sequence[PackageLayer],
        present: Mapping[str, str],
        progress: Progress,
    ) -> None:
        aside = path.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
        installer = find_installer(self._installer)
        added: dict[str, str] = {}
        try:
            (aside / "lib").mkdir(parents=True)
            for layer in layers:
                work = Work(layer, aside / "lib", progress)
                pins = installer.resolve(work, {**present, **added})
                _check(layer, pins, present)
                # uv cannot be told that it has what the layers before have added.
                pins = [p for p in pins if added.get(canonicalize_name(p.name)) != p.version]
                if pins:
                    progress(f"Installing {', '.join(map(str, pins))}")
                    installer.install(work, pins)
                added |= {canonicalize_name(pin.name): pin.version for pin in pins}
            manifest = {
                "packages": [
                    f"{name}=={version}" if version else name for name, version in added.items()
                ],
                "installer": installer.name,
                "made": time.time(),
            }
            (aside / _MANIFEST).write_text(json.dumps(manifest))
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self, path: Path, progress: Progress) -> Iterator[None]:
        """Keep other sessions from making the same one meanwhile."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(self._folder)
        with path.with_suffix(".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    progress("Another session is installing the same packages")
                    time.sleep(_TURN)
            yield


def _check_owner(folder: Path) -> None:
    """Refuse a folder that others could put code into."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ImageError(
            "packages are not installed there",
            seen=f"other users can write to {folder}",
            fix="Name another folder: %config FlyteJupyter.packages_folder = ...",
        )


def _check(layer: PackageLayer, pins: Sequence[Pin], present: Mapping[str, str]) -> None:
    """Refuse what would put a second version of something beside the kernel's."""
    for pin in pins:
        has = present.get(canonicalize_name(pin.name))
        if has is not None:
            raise ImageError(
                f"{layer.origin} does not go with this kernel",
                seen=f"it would need {pin.name} {pin.version}, the kernel has {has}",
                fix="Install that in the kernel's environment, or ask for what goes with it.",
            )


def _shown(name: str, version: str) -> str:
    return f"{name}=={version}" if version else name


def _key(layers: Sequence[PackageLayer], present: Mapping[str, str]) -> str:
    files = [Path(file).read_text() for layer in layers for file in layer.files]
    about = {
        "asked": [
            (layer.requirements, layer.indexes, layer.arguments, layer.content) for layer in layers
        ],
        "files": files,
        "present": sorted(present.items()),
        "python": [sys.implementation.cache_tag, sysconfig.get_platform(), sys.prefix],
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
