"""Folders of packages, one for each thing that can be asked for, made once and kept.

A folder is named after what was asked and what the kernel has, so that it is found again without
asking an index. Two sessions that want the same one wait for each other.
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
from flyte_jupyter.backends.local.packages.pip import Environment, Progress
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError

_MANIFEST = "packages.json"
_TOOLS = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence"}
"""What comes with pip itself, where the kernel has none."""
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
    provided
        Names of packages that count as there, whatever is installed.
    keep
        Whether the kernel's version is taken, and named, where another is asked for.
    """

    def __init__(
        self,
        folder: Path | None = None,
        provided: Sequence[str] = (),
        *,
        keep: bool = False,
    ) -> None:
        self._folder = folder or Path(jupyter_data_dir(), "flyte_jupyter", "packages")
        self._keep = keep
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
                    _make(path, lacking, present, progress)
        packages = json.loads((path / _MANIFEST).read_text())["packages"]
        return Overlay(Environment(path).packages, tuple(packages), tuple(remarks))

    def _lacking(self, layer: PackageLayer, remarks: list[str]) -> PackageLayer | None:
        """Return what of a layer has to be installed, if anything."""
        wanted = [x for x in layer.requirements if kernel.name_of(x) not in self._provided]
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


def _make(
    path: Path, layers: Sequence[PackageLayer], present: Mapping[str, str], progress: Progress
) -> None:
    """Make what has packages; it is whole when it has a list of them."""
    shutil.rmtree(path, ignore_errors=True)  # of one that was killed
    environment = Environment(path)
    try:
        environment.make()
        for layer in layers:
            # What the layers before have added counts as installed too.
            environment.install(layer, present, progress)
            _check(layer, environment, present)
        shutil.rmtree(path / "tmp", ignore_errors=True)
        added = sorted(f"{name}=={version}" for name, version in _own(environment).items())
        manifest = {"packages": added, "made": time.time()}
        aside = path / f"{_MANIFEST}.new"
        aside.write_text(json.dumps(manifest))
        aside.rename(path / _MANIFEST)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _own(environment: Environment) -> dict[str, str]:
    found = kernel.pins([str(environment.packages)])
    return {name: version for name, version in found.items() if name not in _TOOLS}


def _check(layer: PackageLayer, environment: Environment, present: Mapping[str, str]) -> None:
    """Refuse what would put a second version of something beside the kernel's.

    In processes that a task starts it would come first, and the two sides of a value would differ.
    """
    for name, version in _own(environment).items():
        if name in present:
            raise ImageError(
                f"{layer.origin} does not go with this kernel",
                seen=f"it would need {name} {version}, the kernel has {present[name]}",
                fix="Install that in the kernel's environment, or type: "
                f"%config FlyteJupyter.provided_packages = [{name!r}]",
            )
    twice = sorted(_modules_of(environment.packages) & kernel.modules())
    if twice:
        raise ImageError(
            f"{layer.origin} does not go with this kernel",
            seen=f"it would bring a second {twice[0]}",
            fix="Ask for the package from which the kernel has it.",
        )


def _modules_of(folder: Path) -> set[str]:
    """Return the modules and packages of a folder; parts of namespace packages hide nothing."""
    found = {path.stem.partition(".")[0] for path in folder.glob("*.py")}
    found |= {path.name.partition(".")[0] for path in folder.glob("*.so")}
    found |= {path.parent.name for path in folder.glob("*/__init__.py")}
    return found - _TOOLS


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
