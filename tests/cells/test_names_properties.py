"""Random programs: what analysis leaves out is never missed."""

from __future__ import annotations

import contextlib
import textwrap
import warnings

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

NAMES = ("a", "b", "c", "f", "g", "K")
LIMIT = 500

name = st.sampled_from(NAMES)


def _joined(*parts):
    return st.tuples(*(p if isinstance(p, st.SearchStrategy) else st.just(p) for p in parts)).map(
        "".join
    )


def _expressions(inner):
    return st.one_of(
        _joined("(", inner, ", ", inner, ")"),
        _joined("(", inner, " or ", inner, ")"),
        _joined("(", inner, " and ", inner, ")"),
        _joined("(not ", inner, ")"),
        _joined("(", inner, " if ", inner, " else ", inner, ")"),
        _joined("(", name, " := ", inner, ")"),
        _joined("(0 == ", inner, " == ", inner, ")"),
        _joined("[", inner, " for ", name, " in items(", name, ") if ", inner, "]"),
        _joined("{", inner, ": ", inner, " for q in items(", name, ")}"),
        _joined("(lambda ", name, ": ", inner, ")"),
        _joined("call(lambda: ", inner, ")"),
        _joined("call(", name, ")"),
        _joined("f'{", name, "}'"),
    )


expression = st.recursive(
    st.one_of(name, st.sampled_from(["0", "1", "None"]), _joined("call(", name, ")")),
    _expressions,
    max_leaves=6,
)


def _indented(blocks):
    return st.lists(blocks, min_size=1, max_size=3).map(
        lambda lines: "\n" + textwrap.indent("\n".join(lines), "    ") + "\n"
    )


def _compound(block):
    body = _indented(block)
    return st.one_of(
        _joined("if ", expression, ":", body),
        _joined("if ", expression, ":", body, "else:", body),
        _joined("for ", name, " in items(", expression, "):", body),
        _joined("for ", name, " in items(", expression, "):", body, "    break\nelse:", body),
        _joined("for _ in items(1):", body, "    continue\n"),
        _joined("while not done():", body),
        _joined("while True:", body, "    if ", expression, ": break\n    step()\n"),
        _joined("try:", body, "except ValueError as ", name, ":", body),
        _joined("try:", body, "except ValueError:", body, "else:", body, "finally:", body),
        _joined("try:", body, "finally:", body),
        _joined("with suppress(ValueError):", body),
        _joined("with context() as ", name, ":", body),
        _joined("def ", name, "():", body, "    return ", expression, "\n"),
        _joined("def ", name, "(", name, "=", expression, "):", body),
        _joined("@call\ndef ", name, "():", body, "    return f\n"),
        _joined("def ", name, "():\n    global ", name, "\n    pass\n"),
        _joined("class ", name, ":", body),
        _joined(
            "class ",
            name,
            ":\n    def __init__(self):",
            body.map(lambda b: b.replace("\n", "\n    ")),
            "\n",
        ),
        _joined(
            "match ",
            expression,
            ":\n    case (",
            name,
            ", 0): pass\n    case ",
            name,
            " if ",
            expression,
            ":",
            body.map(lambda b: textwrap.indent(b, "    ")),
            "\n",
        ),
    )


statement = st.recursive(
    st.one_of(
        _joined(name, " = ", expression),
        _joined(name, " = ", expression),
        expression,
        _joined(name, " = lambda: ", expression),
        _joined(name, ", *", name, " = 1, ", expression),
        _joined(name, ": int = ", expression),
        _joined(name, " += ", expression),
        _joined("del ", name),
        _joined("import sys as ", name),
        _joined("raise_(", expression, ")"),
        _joined("assert ", expression, ", ", expression),
    ),
    _compound,
    max_leaves=10,
)
program = st.lists(statement, min_size=1, max_size=8).map("\n".join)


class _OutOfStepsError(Exception):
    pass


def _tools():
    """What programs may call: it bounds them, and turns every failure but NameError into one."""
    left = [LIMIT]
    coin = [0]

    def step(*_):
        left[0] -= 1
        if left[0] < 0:
            raise _OutOfStepsError
        return left[0]

    def items(value):
        step()
        return (value, value) if isinstance(value, int | tuple) else ()

    def done():
        coin[0] += 1
        step()
        return coin[0] % 3 == 0

    def call(value):
        step()
        return value() if callable(value) and value is not call else value

    def raise_(value):
        step()
        coin[0] += 1
        if coin[0] % 2:
            raise ValueError
        return value

    return {
        "step": step, "items": items, "done": done, "call": call, "raise_": raise_,
        "suppress": contextlib.suppress, "context": lambda: contextlib.nullcontext(7),
    }  # fmt: skip


def _outcome(code, namespace):
    """Run a program; return the type of what it raised, and the name a NameError is about."""
    try:
        exec(code, namespace | _tools())
    except NameError as error:
        return NameError, getattr(error, "name", None)
    except Exception as error:  # noqa: BLE001 - whatever the program raises
        return type(error), None
    return None, None


def _compiled(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(source, "<program>", "exec", dont_inherit=True)


def _full():
    return {"a": 1, "b": (1, 2), "c": None, "f": lambda: 3, "g": lambda *_: (4, 5), "K": ValueError}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(program)
@example("def f(): return g()\ndef g(): return a\ndel g\nf")
@example("for a in items(0):\n    b = 1\nb")
@example("class K:\n    a = a\n    def m(self): return a\n    g = call(m) if 0 else b")
def test_a_program_runs_on_its_captured_names_as_it_does_on_all(names_of, source):
    try:
        names = names_of(source)
    except SyntaxError:
        return
    code = _compiled(source)
    full = _full()
    captured = {name: full[name] for name in names.reads if name in full}
    assert _outcome(code, captured) == _outcome(code, full), names.reads


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(program)
def test_a_program_binds_no_more_names_than_it_is_said_to(names_of, source):
    try:
        names = names_of(source)
    except SyntaxError:
        return
    tools = _tools()
    namespace = _full() | tools
    before = dict(namespace)
    with contextlib.suppress(Exception):
        exec(_compiled(source), namespace)
    bound = {
        key
        for key, value in namespace.items()
        if not key.startswith("__") and (key not in before or before[key] is not value)
    }
    assert bound <= names.binds


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from("%!?{}$()[]:=,\n ab1'\"\\@;"), max_size=40).map("".join)
)
@example("%time %time %time x")
@example("%%capture\n%%time\nx")
@example("!{a:b}{")
def test_any_text_is_a_syntax_error_or_has_names(names_of, text):
    try:
        names = names_of(text)
    except SyntaxError:
        return
    assert "" not in names.binds
