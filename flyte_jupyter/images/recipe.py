"""What of a `flyte.Image` a process on this machine can have, and what it cannot.

Flyte gives no other way to what an image consists of than its private fields, which are read here;
`tests/images/test_recipe.py` fails when a new SDK changes what is used here.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from flyte_jupyter.engines import package_sources as sources
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError, one_line
from flyte_jupyter.images.uv_project import Chosen, NotUnderstood, Project

_NAMED = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_NEVER = "a process of this machine has the machine's own"


@dataclass
class Recipe:
    """What an image asks for.

    Parameters
    ----------
    packages
        What it installs, step by step.
    env
        Environment variables that it sets.
    not_honoured
        What no process can have, and why, by field: ``apt_packages``.
    """

    packages: list[PackageLayer] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    not_honoured: dict[str, str] = field(default_factory=dict)


def read(image: Any, environment: str) -> Recipe:
    """Read what an environment's image asks for.

    Parameters
    ----------
    image
        A `flyte.Image`, the address of one, ``"auto"`` or None.
    environment
        Whose it is.

    Raises
    ------
    ImageError
        A file that it names is not there, or says nothing that can be understood.
    """
    if image in (None, "auto"):
        return Recipe()
    recipe = Recipe()
    if isinstance(image, str):
        recipe.not_honoured["base_image"] = f"tasks run in the notebook's own Python, not {image}"
        return recipe
    named = image.name not in (None, _default(*image.python_version, install_flyte=True).name)
    origin = f"image {image.name!r}" if named else f"the image of {environment}"
    _read_base(image, recipe)
    for layer in _own_layers(image):
        reader = _READERS.get(type(layer).__name__, _read_unknown)
        try:
            if reader in _INSTALLING:
                layer.validate()
            reader(layer, origin, recipe)
        except NotUnderstood as error:
            raise ImageError(f"{origin} cannot be read", seen=str(error)) from None
        except Exception as error:
            raise ImageError(f"{origin} cannot be read", seen=one_line(error)) from error
    return recipe


def is_image(value: object) -> bool:
    """Tell a `flyte.Image`, without importing Flyte for it."""
    flyte = sys.modules.get("flyte")
    return flyte is not None and isinstance(value, getattr(flyte, "Image", ()))


def image_of(environment: Any) -> Any:
    """Return the image of a `flyte.TaskEnvironment` that can be built.

    Raises
    ------
    ImageError
        It has none of its own, or only the address of one.
    """
    image = environment.image
    if is_image(image):
        return image
    raise ImageError(
        f"nothing was built of {environment.name}",
        seen="it has Flyte's own image" if image in (None, "auto") else f"{image} is an address",
        fix="Give it one: flyte.Image.from_debian_base(...).with_pip_packages(...)",
    )


def _read_base(image: Any, recipe: Recipe) -> None:
    kernel = sys.version_info[:2]
    if tuple(image.python_version) != kernel:
        recipe.not_honoured["python_version"] = (
            f"it asks for Python {_dotted(image.python_version)}, the notebook's own is "
            f"{_dotted(kernel)}"
        )
    if image.dockerfile is not None:
        recipe.not_honoured["dockerfile"] = _NEVER
    elif image._ref_name:
        recipe.not_honoured["base_image"] = (
            f"tasks run in the notebook's own Python, not in what {image._ref_name!r} refers to"
        )
    elif image.base_image not in _default_bases(*image.python_version):
        recipe.not_honoured["base_image"] = (
            f"tasks run in the notebook's own Python, not {image.base_image}"
        )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


@functools.cache
def _default(major: int, minor: int, *, install_flyte: bool) -> Any:
    import flyte

    return flyte.Image.from_debian_base((major, minor), install_flyte=install_flyte)


def _default_bases(major: int, minor: int) -> set[str | None]:
    return {_default(major, minor, install_flyte=each).base_image for each in (True, False)}


def _own_layers(image: Any) -> Sequence[Any]:
    """Return the layers that the user asked for, without those of Flyte's own images."""
    layers: tuple[Any, ...] = image._layers
    for install_flyte in (True, False):
        default = _default(*image.python_version, install_flyte=install_flyte)._layers
        if default and layers[: len(default)] == default:
            return layers[len(default) :]
    return layers


# -- what a process can have --------------------------------------------------------------------


def _read_packages(layer: Any, origin: str, recipe: Recipe) -> None:
    _add(layer, origin, recipe, layer.packages or ())


def _read_requirements(layer: Any, origin: str, recipe: Recipe) -> None:
    file = Path(layer.file).resolve()
    lines = _plain_lines(file)
    if lines is None:  # it has options, hashes or paths: the installer's to read
        _add(layer, origin, recipe, (), files=(str(file),))
    else:
        _add(layer, origin, recipe, lines)


def _plain_lines(file: Path) -> tuple[str, ...] | None:
    """Return the requirements of a file that has nothing else; None if it has."""
    lines = [line.partition(" #")[0].strip() for line in file.read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    try:
        for line in lines:
            Requirement(line)
    except InvalidRequirement:
        return None
    return tuple(lines)


def _read_project(layer: Any, origin: str, recipe: Recipe) -> None:
    pyproject = Path(layer.pyproject).resolve()
    project, ignored = Project(pyproject), recipe.not_honoured
    itself = layer.project_install_mode == "install_project"
    chosen = Chosen.by(shlex.split(layer.extra_args or ""))
    asked = [str(pyproject.parent)] if itself else project.dependencies()
    asked += project.optional(chosen)
    if chosen.unknown:
        ignored["uv_project.extra_args"] = f"{' '.join(chosen.unknown)} is for uv sync alone"
    first, *others = project.indexes() or ("",)
    layer = replace(
        layer,
        extra_args=None,
        index_url=layer.index_url or first or None,
        extra_index_urls=(*(layer.extra_index_urls or ()), *others) or None,
    )
    if layer.uvlock is not None:
        ignored["uv_project.uvlock"] = (
            "what the notebook's environment has is used as it is; only the rest is chosen anew"
        )
    _add(layer, origin, recipe, asked)
    _check_python(project.python, recipe)


def _read_script(layer: Any, origin: str, recipe: Recipe) -> None:
    from flyte._utils import parse_uv_script_file

    header = parse_uv_script_file(Path(layer.script))
    _add(layer, origin, recipe, (*header.dependencies, *map(str, header.pyprojects)))
    _check_python(header.requires_python, recipe)


def _check_python(asked: str | None, recipe: Recipe) -> None:
    kernel = _dotted(sys.version_info[:3])
    if asked and kernel not in SpecifierSet(asked):
        recipe.not_honoured["python_version"] = (
            f"it asks for Python {asked}, the notebook's own is {kernel}"
        )


def _read_wheels(layer: Any, origin: str, recipe: Recipe) -> None:
    wheels = Path(layer.wheel_dir).resolve()
    _add(layer, origin, recipe, (layer.package_name,), more=("--find-links", str(wheels)))


def _read_env(layer: Any, origin: str, recipe: Recipe) -> None:
    del origin
    for name, value in layer.env_vars:
        # As in a Dockerfile: what was set before may be named.
        recipe.env[name] = _expanded(value, {**os.environ, **recipe.env})


def _expanded(value: str, variables: Mapping[str, str]) -> str:
    return _NAMED.sub(lambda found: variables.get(found[1] or found[2], ""), value)


def _add(
    layer: Any,
    origin: str,
    recipe: Recipe,
    requirements: Sequence[str],
    *,
    files: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
) -> None:
    if layer.secret_mounts:
        recipe.not_honoured["secrets"] = "nothing is mounted while packages are installed"
    further = tuple(layer.extra_index_urls or ())
    indexes = (layer.index_url or "", *further) if layer.index_url or further else ()
    words = (*(["--pre"] if layer.pre else []), *shlex.split(layer.extra_args or ""), *more)
    named = tuple(map(sources.absolute, requirements))
    content = sources.stamps((*named, *more), files)
    recipe.packages.append(PackageLayer(origin, named, files, indexes, words, content))


# -- what it cannot -----------------------------------------------------------------------------


def _never(name: str, reason: str) -> Callable[[Any, str, Recipe], None]:
    def read(layer: Any, origin: str, recipe: Recipe) -> None:
        del layer, origin
        recipe.not_honoured[name] = reason

    return read


def _read_apt(layer: Any, origin: str, recipe: Recipe) -> None:
    del origin
    names = ", ".join(layer.packages)
    recipe.not_honoured["apt_packages"] = f"{_NEVER}; if {names} is not there, install it"


def _read_unknown(layer: Any, origin: str, recipe: Recipe) -> None:
    del origin
    recipe.not_honoured[type(layer).__name__] = "it is not known here"


_IN_PLACE = "tasks run in the notebook's folder and see its files"
_READERS: Mapping[str, Callable[[Any, str, Recipe], None]] = {
    "PipPackages": _read_packages,
    "Requirements": _read_requirements,
    "UVProject": _read_project,
    "UVScript": _read_script,
    "PythonWheels": _read_wheels,
    "Env": _read_env,
    "AptPackages": _read_apt,
    "Commands": _never("commands", "they are for a machine of its own"),
    "WorkDir": _never("workdir", _IN_PLACE),
    "CopyConfig": _never("source", _IN_PLACE),
    "CodeBundleLayer": _never("code_bundle", _IN_PLACE),
    "DockerIgnore": _never("dockerignore", "nothing is copied"),
    "PoetryProject": _never("poetry_project", "use with_uv_project or with_requirements"),
    "PixiProject": _never("pixi_project", "conda packages need an environment of their own"),
    "PixiScript": _never("pixi_script", "conda packages need an environment of their own"),
    "_DockerLines": _never("docker_lines", _NEVER),
}
_INSTALLING = (_read_requirements, _read_project, _read_script, _read_wheels)
"""Those that read files."""
