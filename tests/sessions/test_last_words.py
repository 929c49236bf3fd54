"""The lines of a log that tell why a process ended."""

from __future__ import annotations

import pytest

from flyte_jupyter.backends.backend import START_LINE
from flyte_jupyter.sessions.last_words import last_words


def log(*sections, begin=1):
    """Return a log of several processes, the first of which may be cut off."""
    parts = [sections[0]]
    for generation, section in enumerate(sections[1:], begin + 1):
        parts += [START_LINE.format("driver", generation), section]
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize(
    ("generation", "said"), [(1, "one"), (2, "two"), (3, "three"), (0, "three")]
)
def test_each_process_is_heard_for_itself(generation, said):
    assert last_words("driver", generation, log("one", "two", "three")) == [said]


def test_a_log_that_was_cut_off_still_tells_whose_it_is():
    text = log("the end of four", "five", begin=4)
    assert last_words("driver", 4, text) == ["the end of four"]
    assert last_words("driver", 5, text) == ["five"]
    assert last_words("driver", 9, text) == ["five"]


def test_a_process_that_said_nothing_has_no_words():
    assert last_words("driver", 2, log("one", "")) == []
    assert last_words("driver", 0, "") == []


def test_only_the_end_is_told():
    lines = [f"line {n}" for n in range(100)]
    assert last_words("worker-0", 0, "\n".join(lines)) == lines[-12:]


def test_of_a_crash_the_stack_of_the_users_code_is_told_and_what_was_said_just_before():
    frames = [f"  File mine.py, line {n}" for n in range(3)]
    shell = ["  File IPython/core/interactiveshell.py, line 1", "  File more.py, line 2"]
    said = ["long ago", "heap:", "rows > 0", "aborting"]
    text = "\n".join([*said, "Fatal Python error: Aborted", *frames, *shell])
    assert last_words("driver", 1, text) == [
        *said[1:],
        "Fatal Python error: Aborted",
        *frames,
    ]
