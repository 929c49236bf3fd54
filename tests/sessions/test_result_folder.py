"""The folder of cached results: they are unpickled, so only what is ours is trusted."""

from __future__ import annotations

import io
import os
import stat
import time

import numpy as np
import pytest

from flyte_jupyter import CaptureError, UsageError
from flyte_jupyter.sessions.result_folder import Abandoned, ResultFolder
from flyte_jupyter.sessions.results import freeze, thaw

KEYS = [f"{n:064x}" for n in range(6)]
ANYBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results"


def keep(path, key=KEYS[0], limit=1 << 30, stop=lambda: False, **outputs):
    with ResultFolder(path, make=True) as folder:
        folder.write(key, freeze(outputs, 1 << 30), limit, stop)


def kept(path, key=KEYS[0]):
    with ResultFolder(path) as folder, folder.open(key) as file:
        return thaw(file, os.fstat(file.fileno()).st_size)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o002, 0o077, 0o177])
def test_what_is_made_is_for_the_user_alone_whatever_the_umask(path, umask):
    before = os.umask(umask)
    try:
        keep(path, x=1)
    finally:
        os.umask(before)
    assert mode(path) == 0o700
    assert mode(path / KEYS[0]) == 0o600
    assert kept(path) == {"x": 1}


def test_a_folder_that_is_not_there_is_not_made_by_looking(path):
    with pytest.raises(FileNotFoundError):
        ResultFolder(path)
    assert not path.exists()


@pytest.mark.parametrize("loose", [0o777, 0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(path, loose):
    keep(path, x=1)
    path.chmod(loose)
    with pytest.raises(UsageError) as refused:
        kept(path)
    assert f"other users can write to {path} (mode {loose:o})" in str(refused.value)
    assert str(refused.value).endswith(f"Type: !chmod 700 '{path}'")
    with pytest.raises(UsageError):
        keep(path, x=2)
    path.chmod(0o755)
    assert kept(path) == {"x": 1}, "others may see that something is there"


@root_only
def test_a_folder_of_somebody_else_is_refused(path):
    keep(path, x=1)
    os.chown(path, ANYBODY, ANYBODY)
    with pytest.raises(UsageError, match=f"belongs to another user .uid {ANYBODY}.") as refused:
        kept(path)
    assert "Choose a folder of your own: %config FlyteJupyter.cache_folder" in str(refused.value)
    assert mode(path) == 0o700


def test_a_link_to_a_folder_of_ours_is_followed_and_a_file_is_refused(path, tmp_path):
    keep(path, x=1)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert kept(link) == {"x": 1}
    with pytest.raises(UsageError, match="is no folder"):
        ResultFolder(path / KEYS[0])


def test_an_entry_that_is_a_link_a_pipe_or_open_to_others_is_refused(path, tmp_path):
    keep(path, x=1)
    (path / KEYS[0]).rename(tmp_path / "elsewhere")
    (path / KEYS[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="it is a link"):
        kept(path)
    os.mkfifo(path / KEYS[1], 0o600)
    with pytest.raises(UsageError, match="it is no plain file"):
        kept(path, KEYS[1])
    keep(path, KEYS[2], x=1)
    (path / KEYS[2]).chmod(0o660)
    with pytest.raises(UsageError, match="other users can write to it"):
        kept(path, KEYS[2])


@root_only
def test_an_entry_of_somebody_else_is_refused_and_replaced(path):
    keep(path, x=1)
    os.chown(path / KEYS[0], ANYBODY, ANYBODY)
    with pytest.raises(UsageError, match="is made again: it belongs to another user"):
        kept(path)
    keep(path, x=2)
    assert kept(path) == {"x": 2}


def test_what_was_made_longest_ago_goes_first(path):
    block = np.zeros(100_000, np.uint8)
    for age, key in enumerate(KEYS[:4]):
        keep(path, key, x=block)
        os.utime(path / key, (0, time.time() - age))
    keep(path, KEYS[4], limit=350_000, x=block)
    assert {p.name for p in path.iterdir()} == {KEYS[0], KEYS[1], KEYS[4]}


def test_a_result_that_replaces_itself_needs_no_room_beside(path):
    block = np.zeros(100_000, np.uint8)
    for key in KEYS[:3]:
        keep(path, key, x=block)
    keep(path, KEYS[0], limit=350_000, x=block)
    assert {p.name for p in path.iterdir()} == set(KEYS[:3])


def test_other_files_in_the_folder_are_left_alone(path):
    path.mkdir(mode=0o700)
    (path / "thesis.tex").write_text("x" * 1000)
    (path / "data").mkdir()
    keep(path, KEYS[0], x=1)
    keep(path, KEYS[1], limit=1, x=2)
    assert {p.name for p in path.iterdir()} == {"thesis.tex", "data", KEYS[1]}


def test_what_another_kernel_writes_is_left_and_what_a_killed_one_left_goes(path):
    path.mkdir(mode=0o700)
    young, old = path / f".{KEYS[1]}-00000001", path / f".{KEYS[2]}-00000002"
    young.write_bytes(b"1")
    old.write_bytes(b"1")
    os.utime(old, (0, time.time() - 7200))
    keep(path, limit=1, x=1)
    assert young.exists()
    assert not old.exists()


def test_a_write_that_is_given_up_leaves_nothing(path):
    asked = iter([False, True])
    with pytest.raises(Abandoned):
        keep(path, stop=lambda: next(asked), x=1)
    assert list(path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(path):
    keep(path, x=1)
    (path / KEYS[1]).mkdir()
    with pytest.raises(OSError, match="irectory"):
        keep(path, KEYS[1], x=1)
    assert {p.name for p in path.iterdir()} == set(KEYS[:2])


# -- results --------------------------------------------------------------------------------------


def written(**outputs):
    return b"".join(freeze(outputs, 1 << 30).pieces)


def read(data):
    return thaw(io.BytesIO(data), len(data))


def test_arrays_come_back_writable_and_on_their_own(path):
    array = np.arange(50_000.0)
    frozen = freeze({"x": array, "y": "text"}, 1 << 30)
    array[:] = -1
    back = read(b"".join(frozen.pieces))
    back["x"][0] = 7
    assert back["x"][1] == 1
    assert back["y"] == "text"


def test_whatever_happened_to_a_file_it_is_no_result():
    data = written(x=np.arange(50_000.0), y=[1, 2])
    for cut in (0, 5, 23, 60, 200, len(data) - 1):
        with pytest.raises(ValueError, match=r"\w"):
            read(data[:cut])
    for at in range(0, len(data), 9_973):
        with pytest.raises((ValueError, CaptureError)):
            read(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ValueError, match="not a result"):
        read(b"something else entirely\n")
    for header in (b"[]", b"{}", b"1", b"null", b'{"names":1,"lengths":[-5],"digest":""}', b"\xff"):
        with pytest.raises(ValueError, match=r"\w"):
            read(data[: data.index(b"\n") + 1] + header + b"\n")


def test_outputs_beyond_the_limit_are_not_copied():
    with pytest.raises(UsageError, match=r"too large: 97.8 KiB, and .*cache_limit is 1000 B"):
        freeze({"x": np.zeros(100_000, np.uint8)}, 1000)
