"""What a process said last: the lines of its log that tell why it ended."""

from __future__ import annotations

import re

from flyte_jupyter.backends.backend import START_LINE

_TAIL = 12
_BEFORE = 3
"""Lines before a crash that are told too: C code that ends a process says there why."""


def last_words(member: str, generation: int, text: str) -> list[str]:
    """Return the lines that say most: where Python crashed, or the last ones.

    Parameters
    ----------
    member
        Whose log it is.
    generation
        Which of its processes is meant; 0 for the last.
    text
        The end of the log that all of them share.
    """
    lines = _written_by(member, generation, text).strip().splitlines()
    crashes = [n for n, line in enumerate(lines) if line.startswith("Fatal Python error")]
    if not crashes:
        return lines[-_TAIL:]
    before = lines[max(0, crashes[-1] - _BEFORE) : crashes[-1]]
    stack = lines[crashes[-1] :]
    shell = next((n for n, line in enumerate(stack) if "interactiveshell.py" in line), _TAIL)
    return before + stack[: min(shell, _TAIL)]


def _written_by(member: str, generation: int, text: str) -> str:
    first, *rest = re.split(START_LINE.format(re.escape(member), r"(\d+)") + "\n", text)
    sections = dict(zip(map(int, rest[::2]), rest[1::2], strict=True))
    sections[min(sections, default=1) - 1] = first
    return sections.get(generation, sections[max(sections)])
