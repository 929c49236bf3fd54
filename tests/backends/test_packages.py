"""Packages over the kernel's own: what is missing, what cannot be, and where it is kept."""

from __future__ import annotations

import _thread
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from packaging.requirements import Requirement

from flyte_jupyter.backends.local.packages import Overlays, commands, kernel, pip
from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError
from tests.wheels import only_index, wheel

BEFORE = importlib.metadata.version("packaging")


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    with only_index(folder):
        yield folder


def layer(*requirements: str, indexes=(), **more) -> PackageLayer:
    alone = () if indexes else ("--no-index",)
    return PackageLayer(
        "image 'x'", requirements, **{"indexes": indexes, "arguments": alone, **more}
    )


def overlays(tmp_path, **options) -> Overlays:
    return Overlays(tmp_path / "packages", **options)


def quiet(step: str) -> None:
    del step


# -- what the kernel has ------------------------------------------------------------------------


def test_what_the_kernel_has_is_not_missing():
    found = kernel.compare(["packaging", "Packaging>=1", f"packaging=={BEFORE}"])
    assert found == kernel.Missing((), ())


def test_what_is_for_other_machines_is_not_missing():
    assert kernel.compare(["no-such; sys_platform == 'none'"]) == kernel.Missing((), ())


def test_what_is_no_name_is_left_to_the_installer():
    asked = ("./dist/a.whl", "git+https://host/a", "packaging @ file:///a.whl", "no-such-thing")
    assert kernel.compare(asked) == kernel.Missing(asked, ())


def test_another_version_is_a_conflict():
    found = kernel.compare(["packaging<1"])
    assert not found.requirements
    assert str(found.conflicts[0]) == f"packaging<1 is asked for, the kernel has packaging {BEFORE}"


def test_an_extra_is_looked_into(monkeypatch):
    """A package may be there without what one of its extras needs."""
    requires = [
        "packaging; extra == 'had'",
        "no-such; extra == 'lacking'",
        "this[ring]; extra=='ring'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(kernel, "version_of", lambda name: None if name == "no-such" else "1.0")
    assert kernel.compare(["this[had]", "this[ring]"]).requirements == ()
    assert kernel.compare(["this[lacking]"]).requirements == ("this[lacking]",)


def test_pins_are_what_pip_would_say():
    found = kernel.pins()
    assert found["packaging"] == BEFORE
    assert all(Requirement(f"{name}=={version}") for name, version in found.items())


# -- overlays -----------------------------------------------------------------------------------


def test_nothing_is_made_where_nothing_is_missing(tmp_path):
    overlay = overlays(tmp_path).prepare([layer("packaging")], quiet)
    assert overlay.path is None
    assert not (tmp_path / "packages").exists()


def test_only_what_is_missing_is_installed_and_then_found_again(tmp_path, index):
    wheel(index, "needed-too", "2.0", ["packaging"])
    wheel(index, "asked-for", "1.5", ["needed-too>=1", "packaging"])
    steps: list[str] = []
    asked = [layer("asked-for", "packaging")]
    overlay = overlays(tmp_path).prepare(asked, steps.append)
    assert sorted(overlay.packages) == ["asked-for==1.5", "needed-too==2.0"]
    assert {each.stem for each in overlay.path.glob("*.py")} == {"asked_for", "needed_too"}
    assert any("asked-for" in step for step in steps)
    steps.clear()
    assert overlays(tmp_path).prepare([layer("asked-for", "packaging")], steps.append) == overlay
    assert not steps
    left = sorted(each.name for each in (tmp_path / "packages").iterdir())
    name = overlay.path.parents[2].name
    assert left == [name, f"{name}.lock"]
    assert (tmp_path / "packages").stat().st_mode & 0o777 == 0o700


def test_layers_build_on_each_other(tmp_path, index):
    wheel(index, "first", "1.0")
    wheel(index, "first", "2.0")
    wheel(index, "second", "1.0", ["first"])
    asked = [layer("first<2"), layer("second")]
    overlay = overlays(tmp_path).prepare(asked, quiet)
    assert sorted(overlay.packages) == ["first==1.0", "second==1.0"]
    assert "1.0" in (overlay.path / "first.py").read_text()


def test_the_kernels_versions_hold_for_what_is_chosen(tmp_path, index):
    wheel(index, "chosen", "1.0", [f"packaging>={BEFORE}"])
    wheel(index, "chosen", "2.0", ["packaging>=9999"])
    overlay = overlays(tmp_path).prepare([layer("chosen")], quiet)
    assert overlay.packages == ("chosen==1.0",)


def test_what_does_not_go_with_the_kernel_is_named(tmp_path, index):
    wheel(index, "greedy", "1.0", ["packaging>=9999"])
    with pytest.raises(ImageError, match=r"do not go with the kernel's.*packaging>=9999") as caught:
        overlays(tmp_path).prepare([layer("greedy")], quiet)
    assert "\n" not in str(caught.value)


def test_another_version_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(ImageError, match="image 'x' does not go with this kernel: packaging<1"):
        overlays(tmp_path).prepare([layer("packaging<1")], quiet)


def test_the_kernels_version_can_be_kept(tmp_path):
    overlay = overlays(tmp_path, keep=True).prepare([layer("packaging<1")], quiet)
    assert overlay.path is None
    assert overlay.remarks == (
        f"packaging<1 is asked for, the kernel has packaging {BEFORE}, which is used",
    )


def test_what_the_notebook_provides_is_not_installed(tmp_path):
    one = overlays(tmp_path, provided=["My_Plugin"])
    assert one.prepare([layer("my-plugin>=2")], quiet).path is None


def test_a_file_of_requirements_is_read_by_the_installer(tmp_path, index):
    wheel(index, "listed", "1.0")
    file = tmp_path / "requirements.txt"
    file.write_text("# all of it\nlisted==1.0  # this\n")
    asked = layer(files=(str(file),))
    before = overlays(tmp_path).prepare([asked], quiet)
    assert before.packages == ("listed==1.0",)
    wheel(index, "listed", "2.0")
    file.write_text("listed==2.0\n")
    after = overlays(tmp_path).prepare([asked], quiet)
    assert after.packages == ("listed==2.0",)
    assert after.path != before.path


def test_a_wheel_of_ones_own_is_installed_again_when_it_changes(tmp_path, index):
    path = wheel(tmp_path, "own", "1.0", code="text = 'old'\n")
    one = overlays(tmp_path)
    old = one.prepare([layer(str(path), content="1")], quiet)
    assert "old" in (old.path / "own.py").read_text()
    wheel(tmp_path, "own", "1.0", code="text = 'new'\n")
    new = one.prepare([layer(str(path), content="2")], quiet)
    assert "new" in (new.path / "own.py").read_text()


def test_parts_of_one_namespace_come_together(tmp_path, index):
    for part in ("one", "two"):
        wheel(index, f"of-{part}", module=f"shared/{part}")
    asked = [layer("of-one"), layer("of-two")]
    overlay = overlays(tmp_path).prepare(asked, quiet)
    assert {each.name for each in (overlay.path / "shared").glob("*.py")} == {"one.py", "two.py"}


@pytest.mark.parametrize("module", ["packaging/__init__", "json", "psutil"])
def test_what_would_hide_a_module_is_refused(tmp_path, index, module):
    """In processes that a task starts it would come before the kernel's own."""
    wheel(index, "impostor", module=module)
    with pytest.raises(ImageError, match=f"a second {module.partition('/')[0]}"):
        overlays(tmp_path).prepare([layer("impostor")], quiet)


def test_a_file_of_requirements_says_where_to_look(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    wheel(folder, "listed")
    file = tmp_path / "requirements.txt"
    file.write_text(f"--no-index\n--find-links {folder}\nlisted\n")
    assert overlays(tmp_path).prepare([layer(files=(str(file),))], quiet).packages == (
        "listed==1.0",
    )


def test_a_file_of_requirements_is_held_to_its_hashes(tmp_path, index):
    wheel(index, "listed")
    file = tmp_path / "requirements.txt"
    file.write_text(f"listed==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ImageError, match=r"(?i)hash"):
        overlays(tmp_path).prepare([layer(files=(str(file),))], quiet)


PYPROJECT = "[project]\nname = 'packaging'\nversion = '0'\n"


def test_a_project_of_which_the_kernel_has_another_copy_is_refused(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "setup.py").write_text("from setuptools import setup\nsetup()\n")
    here = layer(str(project), arguments=("--no-build-isolation",))
    with pytest.raises(ImageError, match="the kernel has packaging"):
        overlays(tmp_path).prepare([here], quiet)
    assert overlays(tmp_path, provided=["packaging"]).prepare([here], quiet).path is None


def test_a_project_that_the_kernel_works_with_where_it_lies_is_met(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    class Editable:
        def read_text(self, name):
            return json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Editable())
    assert kernel.compare([str(tmp_path)]) == kernel.Missing((), ())


def test_versions_that_nobody_can_compare_stop_nothing(tmp_path, monkeypatch):
    """A system's own packages may have such."""
    info = tmp_path / "odd-0.1.43ubuntu1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 0.1.43ubuntu1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "odd" not in kernel.pins()
    assert kernel.compare(["odd>=1"]) == kernel.Missing((), ())


def test_a_kernel_without_pip_is_helped_by_python(tmp_path, index, monkeypatch):
    wheel(index, "asked-for")
    monkeypatch.setattr(pip, "has_pip", lambda: False)
    overlay = overlays(tmp_path).prepare([layer("asked-for")], quiet)
    assert overlay.packages == ("asked-for==1.0",)


def test_users_whose_pip_installs_for_themselves_are_served_too(tmp_path, index, monkeypatch):
    wheel(index, "asked-for")
    monkeypatch.setenv("PIP_USER", "1")
    assert overlays(tmp_path).prepare([layer("asked-for")], quiet).packages == ("asked-for==1.0",)


def test_programs_of_a_package_find_the_kernels_packages(tmp_path, index):
    wheel(index, "tool", code="import packaging\ndef main():\n    print('ran')\n", script="run-it")
    overlay = overlays(tmp_path).prepare([layer("tool")], quiet)
    program = overlay.path.parents[2] / "bin" / "run-it"
    assert subprocess.check_output([program], text=True) == "ran\n"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("no-such-package", r"no-such-package.*provided_packages = \['no-such-package'\]"),
        ("had==9", "had==9.*Ask for another version"),
        ("not a requirement", "not a requirement"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(tmp_path, index, asked, said):
    wheel(index, "had", "1.0")
    with pytest.raises(ImageError, match=said) as caught:
        overlays(tmp_path).prepare([layer(asked)], quiet)
    assert "\n" not in str(caught.value)
    assert [each.suffix for each in (tmp_path / "packages").iterdir()] == [".lock"]


def test_an_index_out_of_reach_is_said_to_be_so(tmp_path, monkeypatch):
    asked = layer("no-such-package", indexes=("http://user:pass-word@127.0.0.1:9/simple",))
    with pytest.raises(ImageError, match="the package index cannot be reached") as caught:
        overlays(tmp_path).prepare([asked], quiet)
    assert "pass-word" not in str(caught.value)


def test_the_password_of_an_index_is_not_on_a_command_line(tmp_path, index, monkeypatch):
    """Anybody on the machine may read command lines."""
    wheel(index, "asked-for")
    seen = []
    real = subprocess.Popen

    def spy(command, *args, **kwargs):
        seen.append(" ".join(command))
        return real(command, *args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", spy)
    address = "http://user:pass-word@127.0.0.1:9/simple"
    more = ("--extra-index-url", address, f"--find-links={address}", "--prefer-binary")
    asked = layer("asked-for", indexes=("", address), arguments=more)
    overlay = overlays(tmp_path).prepare([asked], quiet)
    assert overlay.path.parents[2].stat().st_mode & 0o777 == 0o700
    assert seen
    assert "pass-word" not in "".join([*seen, repr(asked)])
    assert "pass-word" not in (overlay.path.parents[2] / "packages.json").read_text()


def test_a_folder_that_others_write_to_is_not_used(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ImageError, match="other users can write"):
        overlays(tmp_path).prepare([layer("no-such-package")], quiet)


def test_two_sessions_make_it_once(tmp_path, index):
    wheel(index, "asked-for")
    made: list[str] = []
    found = []

    def tell(step: str) -> None:
        if step.startswith("Installing"):
            made.append(step)

    def prepare() -> None:
        found.append(overlays(tmp_path).prepare([layer("asked-for")], tell))

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    assert len(made) == 1


SLOW = "import os, time\nopen(os.environ['BEGUN'], 'w').close()\ntime.sleep(600)\n"


def test_an_interrupt_ends_the_installer_and_leaves_nothing(tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    monkeypatch.setenv("BEGUN", str(begun))
    project = tmp_path / "slow"
    project.mkdir()
    (project / "setup.py").write_text(SLOW)

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.05)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    options = {"arguments": ("--no-build-isolation",)}
    with pytest.raises(KeyboardInterrupt):
        overlays(tmp_path).prepare([layer(str(project), **options)], quiet)
    thread.join()
    assert [each.suffix for each in (tmp_path / "packages").iterdir()] == [".lock"]


DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("begun", flush=True)
time.sleep(600)
"""


def test_a_command_that_takes_no_notice_is_killed_with_all_it_started():
    def interrupt(line: str) -> None:
        assert line == "begun"
        raise KeyboardInterrupt

    before = psutil.Process().children(recursive=True)
    with pytest.raises(KeyboardInterrupt):
        commands.output_of([sys.executable, "-c", DEAF], os.environ, interrupt)
    assert psutil.Process().children(recursive=True) == before


KILLED = """\
import sys
from pathlib import Path
from flyte_jupyter.backends.local.packages import Overlays
from flyte_jupyter.engines.packages import PackageLayer
layer = PackageLayer("x", (sys.argv[2],), arguments=("--no-build-isolation",))
Overlays(Path(sys.argv[1]), "pip").prepare([layer], print)
"""


def test_the_installer_ends_with_the_kernel(tmp_path):
    """What it left half made is removed by the next one that wants the same."""
    begun, project = tmp_path / "begun", tmp_path / "slow"
    project.mkdir()
    (project / "setup.py").write_text(SLOW)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "packages"), str(project)]
    kernel_process = subprocess.Popen(command, env={**os.environ, "BEGUN": str(begun)})
    while not begun.exists():
        time.sleep(0.05)
    kernel_process.send_signal(signal.SIGKILL)
    kernel_process.wait()
    # The test's own fixture sees to it that no process is left.


def test_a_layer_crosses_as_json():
    one = layer("a", files=("b",), indexes=("c",), arguments=("d",), content="e")
    assert PackageLayer.from_json(json.loads(json.dumps(one.__dict__))) == one


def test_an_installer_is_asked_for_no_colours():
    """A kernel has the variables set that ask for them, and what fails is read by its words."""
    code = "import os; print(os.environ.get('FORCE_COLOR'), os.environ['NO_COLOR'])"
    asking = {**os.environ, "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    assert commands.output_of([sys.executable, "-c", code], asking, lambda _: None) == "None 1\n"
