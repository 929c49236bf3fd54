"""What a cluster keeps on another disk goes with its folder, and nothing else does."""

from __future__ import annotations

import pytest

from flyte_jupyter.backends.local import runtime_folder
from flyte_jupyter.backends.local.runtime_folder import RuntimeFolder
from flyte_jupyter.backends.local.sweep import sweep


@pytest.fixture
def folder():
    """Make the folder of a cluster whose kernel is long gone."""
    made = RuntimeFolder(runtime_folder.parent() / f"99999999-5-{runtime_folder._place()}abcd")
    made.path.mkdir(mode=0o700)
    yield made
    made.remove()


@pytest.mark.parametrize("remove", [RuntimeFolder.remove, lambda _: sweep()])
def test_a_folder_elsewhere_goes_with_the_one_that_leads_to_it(folder, tmp_path, remove):
    elsewhere = tmp_path / f"spilled-{folder.path.name}"
    elsewhere.mkdir()
    (elsewhere / "data").write_text("much")
    (folder.path / "elsewhere").symlink_to(elsewhere)
    (folder.path / "never-made").symlink_to(tmp_path / f"other-{folder.path.name}")
    remove(folder)
    assert not folder.path.exists()
    assert not elsewhere.exists()
    assert tmp_path.exists()


def test_a_link_to_what_is_somebody_elses_removes_only_the_link(folder, tmp_path):
    (tmp_path / "kept").write_text("mine")
    (tmp_path / folder.path.name[:-1]).mkdir()
    for number, target in enumerate([tmp_path, tmp_path / folder.path.name[:-1]]):
        (folder.path / f"link-{number}").symlink_to(target)
    folder.remove()
    assert (tmp_path / "kept").read_text() == "mine"
    assert (tmp_path / folder.path.name[:-1]).exists()
    folder.remove()
