"""Fingerprints: the same content has the same one, in whatever process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from flyte_jupyter.driver.values import transfer
from flyte_jupyter.sessions.fingerprints import Fingerprint

NOTEBOOK = """
import dataclasses, enum, functools, typing
import numpy as np, pandas as pd

T = typing.TypeVar("T")
LIMIT = 3
WORDS = {"a", "the", "of", "and"}

@functools.cache
def measured(word):
    return len(word)

def helper(x, known=frozenset({"p", "q", "r"})):
    if measured(x) and x in {"a", "b", "c"}:
        return LIMIT
    def inner(y):
        return y in known
    return [inner(word) for word in WORDS]

class Plain:
    colours = {"red", "green", "blue"}
    def __init__(self):
        self.names, self.me = {"n1", "n2", "n3"}, self
    def call(self):
        return helper(self)

class Generic(typing.Generic[T]):
    def f(self) -> T: ...

@dataclasses.dataclass
class Data:
    x: int
    y: list = dataclasses.field(default_factory=list)

class Colour(enum.Enum):
    RED = 1

def wrapped(f):
    @functools.wraps(f)
    def g():
        return f()
    return g

@wrapped
def decorated():
    return Colour.RED

values = {
    "helper": helper, "Plain": Plain, "plain": Plain(), "bound": Plain().call, "Generic": Generic,
    "Data": Data, "data": Data(1), "Colour": Colour, "red": Colour.RED, "T": T,
    "decorated": decorated, "partial": functools.partial(helper, 3), "words": WORDS,
    "mixed": frozenset([1, "a", (2, "b")]), "nested": {"k": [{"a", "b"}]}, "module": np,
    "array": np.arange(100_000), "objects": np.array(["a", None, {"x", "y"}], dtype=object),
    "frame": pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
}
"""


def run_notebook(above=0, kernel="1"):
    """Run the cell as a kernel does: in `__main__`, from a file that bears the kernel's pid."""
    main = types.ModuleType("__main__")
    path = f"/tmp/ipykernel_{kernel}/{kernel}.py"
    exec(compile("\n" * above + NOTEBOOK, path, "exec"), main.__dict__)
    return main.values


def digests(values):
    return {name: Fingerprint({name: value}).digest for name, value in values.items()}


def printed_elsewhere(seed):
    program = (
        "import sys, tests.sessions.test_fingerprints as t\n"
        "main = sys.modules['__main__']\n"
        f"exec(compile('\\n' * {seed} + t.NOTEBOOK, '/tmp/ipykernel_{seed}/1.py', 'exec'),"
        " main.__dict__)\n"
        "print(t.digests(main.values))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_equal_values_of_two_processes_have_equal_fingerprints():
    assert printed_elsewhere(1) == printed_elsewhere(2)


def test_what_has_been_to_another_process_and_back_keeps_its_fingerprint():
    values = run_notebook()
    for name, value in values.items():
        parcel = transfer.pack({name: value}, shared=False)
        back = transfer.unpack(parcel.header, parcel.frames)
        assert digests(back)[name] == digests(values)[name], name


def test_each_of_those_values_has_a_fingerprint_of_its_own():
    assert len(set(digests(run_notebook()).values())) == len(run_notebook())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return LIMIT", "return LIMIT + 1"),
        ("LIMIT = 3", "LIMIT = 4"),
        ('"p", "q", "r"', '"p", "q"'),
        ('{"a", "b", "c"}', '{"a", "b"}'),
        ('"a", "the"', '"an", "the"'),
        ("return y in known", "return y not in known"),
        ("return len(word)", "return len(word) + 1"),
    ],
)
def test_whatever_changes_in_or_below_a_function_changes_its_fingerprint(before, after):
    def helper(text):
        module = {"__name__": "__main__"}
        exec(compile(text, "cell", "exec"), module)
        return Fingerprint({"helper": module["helper"]}).digest

    assert helper(NOTEBOOK) != helper(NOTEBOOK.replace(before, after))
    assert helper(NOTEBOOK) == helper(NOTEBOOK.replace("def inner", "# said\n\n    def inner"))


def test_the_order_of_inputs_does_not_count_but_their_names_do():
    assert Fingerprint({"a": 1, "b": 2}).digest == Fingerprint({"b": 2, "a": 1}).digest
    assert Fingerprint({"a": 1, "b": 2}).digest != Fingerprint({"a": 2, "b": 1}).digest


@pytest.mark.parametrize(
    "make", [lambda: {"a", "b"}, lambda: ["a", "b"], lambda: np.zeros(3)], ids=repr
)
def test_two_names_for_one_object_are_not_two_equal_objects(make):
    one = make()
    assert Fingerprint({"v": [one, one]}).digest != Fingerprint({"v": [make(), make()]}).digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        ("a", b"a"),
        ({"a"}, frozenset({"a"})),
        ({"a"}, ["a"]),
        ((1,), [1]),
        (set(), frozenset()),
        (np.zeros(20_000), np.zeros(20_000, np.int64)),
        (np.zeros(20_000), np.zeros((100, 200))),
        (np.zeros(2), np.zeros(2, np.float32)),
    ],
)
def test_unlike_values_have_unlike_fingerprints(one, other):
    assert Fingerprint({"v": one}).digest != Fingerprint({"v": other}).digest


def test_texts_count_by_content_and_not_by_which_object_they_are():
    word = "".join(["wo", "rd"])
    again = "".join(["wo", "rd"])
    assert word is not again
    assert Fingerprint({"v": [word, word]}).digest == Fingerprint({"v": [word, again]}).digest


def test_what_functions_import_is_told():
    def outer():
        import json.decoder

        class Inner:
            def method(self):
                from email import message

                return message

        return json, Inner

    assert {"json.decoder", "email"} <= Fingerprint({"f": outer}).imports


def test_what_cannot_be_pickled_has_none():
    with pytest.raises(TypeError, match="lock"):
        Fingerprint({"v": threading.Lock()})
