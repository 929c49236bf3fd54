"""Which rank's text is shown, and what is said of ranks that died."""

from __future__ import annotations

import signal

import pytest

from flyte_jupyter.engines.pytorch.failures import crashed, note_of_restart
from flyte_jupyter.engines.pytorch.frames import ERR, OUT, SAY, FrameReader
from flyte_jupyter.engines.pytorch.screen import Screen, shown_ranks
from flyte_jupyter.errors import UsageError


def screen(tmp_path, ranks, world=2):
    shown = []
    made = Screen(
        lambda stream, text: shown.append((stream, text)), shown_ranks(ranks, world), tmp_path
    )
    return made, shown


def log(tmp_path, node=0):
    return (tmp_path / f"node-{node}.log").read_text()


def test_rank_0_alone_is_shown_as_it_comes_and_all_is_logged_in_whole_lines(tmp_path):
    made, shown = screen(tmp_path, "")
    made.text(0, 0, "stdout", b"a")
    made.text(1, 0, "stdout", b"other\nrest")
    made.text(0, 0, "stdout", b"b\n")
    made.finish()
    assert shown == [("stdout", "a"), ("stdout", "b\n")]
    assert log(tmp_path) == "[rank 1] other\n[rank 0] ab\n[rank 1] rest\n"


def test_chosen_ranks_are_shown_in_whole_lines_with_their_numbers(tmp_path):
    made, shown = screen(tmp_path, "all")
    made.text(0, 0, "stdout", b"one\ntw")
    made.text(1, 1, "stderr", b"bar 1\rbar 2\r")
    made.text(0, 0, "stdout", b"o\nend")
    made.finish()
    assert shown == [
        ("stdout", "[rank 0] one\n"),
        ("stderr", "[rank 1] bar 1\r[rank 1] bar 2\r"),
        ("stdout", "[rank 0] two\n"),
        ("stdout", "[rank 0] end\n"),
    ]
    assert log(tmp_path, 1) == "[rank 1] bar 1\r[rank 1] bar 2\r".replace("\r", "\n")


def test_a_character_may_come_in_pieces(tmp_path):
    made, shown = screen(tmp_path, "")
    for byte in "é\n".encode():
        made.text(0, 0, "stdout", bytes([byte]))
    assert "".join(text for _, text in shown) == "é\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("", {0}), ("all", {0, 1, 2}), ("2", {2}), ("0, 1", {0, 1})]
)
def test_ranks_are_read(text, expected):
    assert shown_ranks(text, 3) == expected


@pytest.mark.parametrize("text", ["3", "0,7", "x", "-1"])
def test_ranks_that_there_are_not_are_refused(text):
    with pytest.raises(UsageError, match="0 to 2"):
        shown_ranks(text, 3)


def test_an_error_names_rank_signal_restarts_and_the_plugins_hint():
    error = crashed({1: -signal.SIGKILL, 0: 1}, 2)
    assert error.what == "rank 1 was killed by SIGKILL"
    assert error.seen == "2 restarts did not help"
    assert "memory" in error.fix
    assert "NCCL" in crashed({0: -signal.SIGABRT}, 0).fix
    assert crashed({0: 3}, 0).what == "rank 0 ended with exit code 3 before the cell did"
    assert crashed({}, 0).what == "the ranks have failed"


def test_a_restart_is_said_in_one_line():
    line = note_of_restart({3: -signal.SIGSEGV}, 1, 3)
    assert line == "Rank 3 was killed by SIGSEGV; all ranks start again (1 of 3).\n"


def test_frames_are_read_whatever_pieces_they_come_in():
    import struct

    frames = [(OUT, b"text"), (ERR, b""), (SAY, b"x" * 1000)]
    data = b"".join(struct.pack("=cI", letter, len(body)) + body for letter, body in frames)
    for size in (1, 3, 7, len(data)):
        reader = FrameReader()
        found = []
        for at in range(0, len(data), size):
            found += reader.feed(data[at : at + size])
        assert found == frames


def test_a_line_that_comes_in_many_pieces_is_one(tmp_path):
    made, shown = screen(tmp_path, "all")
    for _ in range(1000):
        made.text(0, 0, "stdout", b".")
    made.text(0, 0, "stdout", b"\nend")
    made.finish()
    assert log(tmp_path) == f"[rank 0] {'.' * 1000}\n[rank 0] end\n"
    assert len(shown) == 2
