"""The driver's output: all of it in the log, as much of it as is good in the notebook."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyte_jupyter.driver.output import transcript
from flyte_jupyter.driver.output.streams import _Buffer
from flyte_jupyter.driver.output.transcript import RunText, Transcript


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(transcript.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def text(tmp_path, clock):
    made = RunText(tmp_path / "run.log", "cell-1", burst=100, rate=10)
    yield made
    made.close()


def write(text, stream, written):
    """Take text as the driver does: into the log, and then into the notebook."""
    text.log(written)
    return text.show(stream, written)


def test_what_fits_is_shown_as_it_comes(text):
    assert write(text, "stdout", "hello\n") == [("stdout", "hello\n")]
    assert write(text, "stderr", "oh\n") == [("stderr", "oh\n")]
    assert text.finish() == []


def test_a_flood_is_cut_where_a_line_ends(text):
    lines = "".join(f"line {i:02}\n" for i in range(20))
    assert write(text, "stdout", lines) == [("stdout", lines[:96])]
    assert write(text, "stdout", "more\n") == []
    shown = text.finish()
    assert "".join(part for _, part in shown) == lines[96:] + "more\n", "so little needs no notice"


def test_what_is_left_out_is_said_and_the_last_lines_follow(text, tmp_path):
    flood = "".join(f"{i:09}\n" for i in range(10_000))
    (first,) = write(text, "stdout", flood)
    (stream, notice), *tail = text.finish()
    assert stream == "stderr"
    assert "are only in %flyte logs cell-1" in notice
    last = "".join(part for _, part in tail)
    assert flood.endswith(last)
    assert len(last) <= 2048
    lines = int(notice.partition(" lines")[0].rpartition(" ")[2].replace(",", ""))
    assert first[1].count("\n") + lines + last.count("\n") == pytest.approx(10_000, abs=1)
    assert (tmp_path / "run.log").read_text() == flood


def test_the_limit_grows_again_with_time(text, clock):
    write(text, "stdout", "x" * 99 + "\n")
    assert write(text, "stdout", "hidden\n") == []
    clock.now = 5.0
    shown = write(text, "stdout", "late\n")
    assert "".join(part for _, part in shown) == "hidden\nlate\n"
    clock.now = 1000.0
    assert write(text, "stdout", "y" * 99 + "\n") == [("stdout", "y" * 99 + "\n")]


def test_the_log_is_for_its_owner_and_takes_any_text(text, tmp_path):
    write(text, "stdout", "ü\ud800\n")
    path = tmp_path / "run.log"
    assert path.read_bytes() == "ü\\ud800\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=300))))
def test_the_log_is_complete_and_what_is_shown_is_in_order(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("log") / "run.log"
    made = RunText(path, "cell-1", burst=200, rate=1)
    shown = [part for stream, text in written for part in write(made, stream, text)]
    shown += made.finish()
    made.close()
    if any(text for _, text in written):
        whole = "".join(text for _, text in written)
        assert path.read_bytes() == whole.encode(errors="backslashreplace")
    rest = "".join(text for _, text in written)
    for _, part in shown:
        if "are only in %flyte logs" not in part:
            found = rest.find(part)
            assert found >= 0, "in order, and nothing invented"
            rest = rest[found + len(part) :]


def test_texts_of_old_runs_are_let_go(tmp_path):
    present: list[object] = []
    made = Transcript(tmp_path, 100, 10, present.append)
    for number in range(70):
        made.begin(f"message-{number}", f"cell-{number}")
        if number:  # the first is still under way
            made.end(f"message-{number}")
    assert made.of("message-0").run == "cell-0"
    assert made.of("message-1") is None
    assert made.of("message-69").run == "cell-69"
    assert present[-1] == tmp_path / "run-cell-0.log"


def test_both_streams_share_one_buffer_in_order():
    buffer, parent = _Buffer(), {"msg_id": "a"}
    for stream, text in [("stdout", "1"), ("stdout", "2"), ("stderr", "3"), ("stdout", "4")]:
        assert not buffer.add(parent, stream, text)
    buffer.add({"msg_id": "b"}, "stdout", "5")
    assert not buffer.empty
    sent: list[tuple[str, str]] = []
    logged: list[str] = []
    buffer.hand_on(
        lambda _, text: logged.append(text), lambda _, stream, text: sent.append((stream, text))
    )
    assert sent == [
        ("stdout", "12"),
        ("stderr", "3"),
        ("stdout", "4"),
        ("stdout", "5"),
    ]
    assert "".join(logged) == "12345"
    assert buffer.empty
    buffer.hand_on(forgotten, forgotten)
    assert buffer.add(parent, "stdout", "x" * (buffer.limit + 1)), "the writer should wait"


def forgotten(*_):
    pytest.fail("it has been forgotten")


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["log", "hand on"]),
            st.tuples(
                st.integers(0, 1), st.sampled_from(["stdout", "stderr"]), st.text(min_size=1)
            ),
        )
    )
)
def test_all_is_logged_once_and_in_order_whenever_that_happens(steps):
    buffer, parents = _Buffer(), [{"msg_id": "a"}, {"msg_id": "b"}]
    written, logged, sent = [], [], []

    def log(parent, text):
        logged.extend((parent["msg_id"], character) for character in text)

    def send(parent, stream, text):
        assert len(sent) + len(text) <= len(logged), "the log has it before the notebook"
        sent.extend((parent["msg_id"], stream, character) for character in text)

    for step in [*steps, "hand on"]:
        if step == "log":
            buffer.log(log)
            assert logged == [(name, character) for name, _, character in written]
        elif step == "hand on":
            buffer.hand_on(log, send)
        else:
            number, stream, text = step
            buffer.add(parents[number], stream, text)
            written.extend((parents[number]["msg_id"], stream, character) for character in text)
    assert sent == written
    assert logged == [(name, character) for name, _, character in written]
