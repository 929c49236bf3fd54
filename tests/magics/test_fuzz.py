"""Whatever is typed, only an error of this package comes out, and nothing is started."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flyte_jupyter.errors import FlyteJupyterError
from flyte_jupyter.magics.completion import completions
from flyte_jupyter.magics.task_magic import PARSER
from flyte_jupyter.magics.verbs import VERBS

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OPTIONS = [option for action in PARSER._actions for option in action.option_strings]
WORDS = st.one_of(
    st.sampled_from([*OPTIONS, "-n", "--plugin", "--workers", "dask", "plain", "0", "-1", "2"]),
    st.text(max_size=12),
)
JOINED = st.lists(WORDS, max_size=6).map(" ".join)
# Environments of these names do not exist, so that no line can start anything.
LINES = st.one_of(st.text(max_size=60), JOINED, JOINED.map(lambda line: f"nowhere {line}")).filter(
    lambda line: "env" not in line
)

STATEMENTS = st.sampled_from(
    [
        "x = 1", "print(x)", "def f(a, *b, c=y, **d):\n    return a + z", "class C(B): w = v",
        "for i in items: i", "[n for n in q if n]", "lambda: u", "with open(p) as file: pass",
        "try:\n    1\nexcept E as e:\n    e", "import os.path as path", "from m import *",
        "del x", "global g\ng = 1", "await thing", "!ls {folder}", "%time t = 1", "files = !ls",
        "match s:\n    case {'k': [a, *r]}:\n        a", "f'{k!r:>{width}}'", "(w := 5)",
        "@decorator\ndef g(): ...", "?help", "x = %sql select", "%%time\n1", "async def h(): yield",
        "try:\n    1\nexcept* V:\n    2", "x: int = 3", "a.b[c] = d", "nonlocal n", "raise",
    ]
)  # fmt: skip
CELLS = st.one_of(
    st.text(max_size=80),
    st.lists(STATEMENTS, max_size=6).map("\n".join),
    st.tuples(st.lists(STATEMENTS, max_size=4).map("\n".join), st.text(max_size=10)).map("".join),
)


@pytest.fixture(autouse=True)
def _start(idle):
    """Nothing runs; `idle` looks afterwards."""


def attempt(function, *args) -> object:
    """Call something that may raise errors of this package, and no others."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return function(*args)
        except FlyteJupyterError as error:
            raised = error
    assert str(raised)
    assert raised._render_traceback_()
    return None


@FUZZ
@given(LINES, st.sampled_from(["1", "x = 1", "x ="]))
@example("nowhere --name %s", "1")
@example("--help", "1")
@example("nowhere -o x", "x")
def test_the_line_of_a_task_cell(shell, line, cell):
    attempt(shell.run_cell_magic, "flyte_task", line, cell)


@FUZZ
@given(CELLS)
@example("\x00")
@example("%%flyte_task env")
@example("\n\n\n")
@example("(" * 200)
@example("x = " + "-" * 3000 + "1")
@example("\ud800")
@example("# coding: latin-1\nx")
@example("\f1")
def test_the_text_of_a_task_cell(shell, cell):
    # IPython itself refuses a cell magic without a body.
    attempt(shell.run_cell_magic, "flyte_task", "env --capture", cell or "\n")


@FUZZ
@given(st.one_of(st.text(max_size=40), st.sampled_from(sorted(VERBS))), LINES)
@example("env", "x --plugin dask --workers 9999999999999999999999")
@example("env", "x --plugin dask --worker-memory 1e400")
@example("env", "x --plugin dask --worker-cpu nan")
@example("env", "x --=y")
@example("logs", "-n 5 x y")
def test_a_line_of_the_other_magic(shell, verb, line):
    attempt(shell.run_line_magic, "flyte", f"{verb} {line}")
    shell._flyte_jupyter.session.declared.clear()


@FUZZ
@given(st.sampled_from(["%flyte ", "%%flyte_task ", "%flyte env e "]), LINES)
def test_completion_of_anything(shell, magic, line):
    found = completions(shell._flyte_jupyter.session, magic + line, line.split(" ")[-1])
    assert all(isinstance(word, str) for word in found)
