"""What installing an extra may do to an environment that has PyTorch already: nothing."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CUDA = ("nvidia", "cuda", "triton", "cupy", "torchvision", "torchaudio")
LEAVES_ALONE = {">=", ">", "!="}
"""Comparisons that a version which is installed goes on to satisfy, as newer ones would."""


def asked(requirements: list[str], extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield what of some requirements counts on this machine."""
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
            yield requirement


def pulled_in(extra: str) -> Iterator[tuple[str, Requirement]]:
    """Yield who asks for what when an extra is installed, down to what depends on nothing."""
    waiting = [("flyte-jupyter", r) for r in asked(EXTRAS[extra], frozenset())]
    waiting += [("flyte-jupyter", r) for r in asked(PROJECT["dependencies"], frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        who, requirement = waiting.pop()
        yield who, requirement
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if (name, extras) in seen or name == "torch":
            continue
        seen.add((name, extras))
        if name == "flyte-jupyter":
            needs = [text for each in extras for text in EXTRAS[each]]
        else:
            needs = importlib.metadata.requires(name) or []
        waiting += [(name, each) for each in asked(needs, extras)]


def test_no_extra_asks_for_a_build_of_torch_or_for_what_comes_with_one():
    for extra, requirements in EXTRAS.items():
        for requirement in map(Requirement, requirements):
            name = canonicalize_name(requirement.name)
            assert not name.startswith(CUDA), f"{extra}: {requirement}"
            assert requirement.url is None, f"{extra}: {requirement}"
            if name == "torch":
                assert {each.operator for each in requirement.specifier} <= LEAVES_ALONE
                assert "+" not in str(requirement.specifier), "a local version names a build"


@pytest.mark.parametrize("extra", ["pytorch", "all"])
def test_an_installed_torch_satisfies_all_that_an_extra_pulls_in(extra):
    pytest.importorskip("torch")
    version = importlib.metadata.version("torch")
    found = {who: r for who, r in pulled_in(extra) if canonicalize_name(r.name) == "torch"}
    assert "flyteplugins-pytorch" in found
    for who, requirement in found.items():
        assert requirement.specifier.contains(version, prereleases=True), who
        assert {each.operator for each in requirement.specifier} <= LEAVES_ALONE, who
        assert requirement.url is None, who
    names = {canonicalize_name(r.name) for _, r in pulled_in(extra)}
    assert not {name for name in names if name.startswith(CUDA)}


@pytest.mark.parametrize("extra", ["dask", "ray", "spark", "quickstart"])
def test_no_other_extra_pulls_torch_in(extra):
    names = {canonicalize_name(requirement.name) for _, requirement in pulled_in(extra)}
    assert "torch" not in names
    assert "flyte" in names
