"""Building the real image. There is no container engine here: a program that answers as Docker does
stands in for it, so that Flyte's own engine runs as it would."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import flyte
import pytest

from flyte_jupyter.errors import ImageError
from flyte_jupyter.images import building

DOCKER = f"""\
#!{sys.executable}
import json, os, sys, time
words = sys.argv[1:]
place = os.path.dirname(sys.argv[0])
with open(place + "/calls", "a") as file:
    file.write(" ".join(words) + "\\n")
if os.path.exists(place + "/down") and words != ["buildx", "version"]:
    sys.exit("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
if words[:3] == ["buildx", "imagetools", "inspect"]:
    if not os.path.exists(place + "/pushed"):
        sys.exit("ERROR: manifest unknown")
    print(json.dumps({{"schemaVersion": 2}}))
if words[:2] == ["buildx", "build"]:
    if os.path.exists(place + "/slow"):
        open(place + "/begun", "w").close()
        time.sleep(600)
    if os.path.exists(place + "/broken"):
        sys.exit("ERROR: failed to solve: no space left on device")
    print("#1 building", flush=True)
    open(place + "/pushed", "w").close()
"""


@pytest.fixture
def docker(tmp_path, monkeypatch) -> Path:
    """A folder that is all of PATH, with a Docker in it; its files say how that behaves."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(DOCKER)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def calls(docker: Path) -> list[str]:
    return (docker / "calls").read_text().splitlines()


def connector_image(registry: str = "registry.test/team", name: str = "flyte-bigquery"):
    """The image of the page on custom connectors."""
    image = flyte.Image.from_debian_base(registry=registry, name=name)
    return image.with_pip_packages("flyteintegrations-bigquery", pre=True)


def quiet(line: str) -> None:
    del line


def test_without_docker_nothing_is_built_and_that_is_said(tmp_path, monkeypatch):
    """Flyte's own engine says that all is well."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError) as caught:
        building.build(connector_image(), builder="local")
    assert str(caught.value) == (
        "nothing was built of flyte-bigquery: Docker is not installed. "
        "Install Docker, or build on a Flyte backend: --builder remote"
    )


def test_without_an_engine_behind_docker_nothing_is_built(docker):
    (docker / "down").touch()
    with pytest.raises(ImageError, match="installed but does not run: Cannot connect") as caught:
        building.build(connector_image())
    assert "\n" not in str(caught.value)
    assert calls(docker) == ["info"]


def test_podman_is_asked_for_where_it_is_the_builder(docker):
    with pytest.raises(ImageError, match="Podman is not installed"):
        building.build(connector_image(), builder="local-podman")


def test_an_image_is_built_and_pushed(docker):
    lines: list[str] = []
    built = building.build(connector_image(), progress=lines.append)
    assert built.how == "built"
    assert built.uri.startswith("registry.test/team/flyte-bigquery:")
    assert built.builder == "local"
    assert "#1 building" in lines
    build = next(call for call in calls(docker) if call.startswith("buildx build"))
    assert f"--tag {built.uri}" in build
    assert "--push" in build


def test_what_the_registry_has_is_not_built_again_unless_forced(docker):
    building.build(connector_image(), progress=quiet)
    (docker / "calls").unlink()
    again = building.build(connector_image(), progress=quiet)
    assert again.how.startswith("is there already")
    assert not [call for call in calls(docker) if call.startswith("buildx build")]
    forced = building.build(connector_image(), force=True, progress=quiet)
    assert forced.how == "built"


def test_what_the_builder_says_when_it_fails_is_passed_on(docker):
    (docker / "broken").touch()
    lines: list[str] = []
    with pytest.raises(ImageError, match="nothing was built of flyte-bigquery") as caught:
        building.build(connector_image(), progress=lines.append)
    assert "\n" not in str(caught.value)
    assert any("no space left on device" in line for line in lines)


def test_another_registry_can_be_named(docker):
    built = building.build(connector_image(), registry="other.test", progress=quiet)
    assert built.uri.startswith("other.test/flyte-bigquery:")


def test_without_a_registry_the_one_line_of_flyte_says_where_to_name_one(docker):
    image = flyte.Image.from_debian_base(name="x").with_pip_packages("a")
    with pytest.raises(ImageError, match="no container registry is configured"):
        building.build(image, progress=quiet)


def test_a_published_image_needs_no_building(docker):
    built = building.build(flyte.Image.from_debian_base())
    assert "published" in built.how
    assert not (docker / "calls").exists()


def test_a_backend_that_is_not_configured_is_named(docker):
    with pytest.raises(ImageError, match=r"no Flyte backend is configured.*init_from_config"):
        building.build(connector_image(), builder="remote")


def test_a_builder_that_nobody_knows_is_named(docker):
    with pytest.raises(ImageError, match="Unknown image builder type: mine"):
        building.build(connector_image(), builder="mine")


def test_an_interrupt_ends_the_build(docker):
    import _thread
    import threading

    (docker / "slow").touch()

    def interrupt() -> None:
        while not (docker / "begun").exists():
            time.sleep(0.05)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        building.build(connector_image(), progress=quiet)
    thread.join()
    assert not os.path.exists(docker / "pushed")
