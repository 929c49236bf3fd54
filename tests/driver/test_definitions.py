"""What a notebook defines beside functions and classes, and what its functions use."""

from __future__ import annotations

import fnmatch
import sys
import textwrap
import types
from typing import Any

import pytest

from flyte_jupyter.driver.values.transfer import PackError, pack, unpack


@pytest.fixture
def main(monkeypatch):
    """Return what runs code as a cell of a notebook."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    def run(code: str) -> Any:
        compiled = compile(textwrap.dedent(code), "<cell>", "exec", dont_inherit=True)
        exec(compiled, vars(module))
        return module

    return run


def carried(monkeypatch, value):
    """Send a value to a process that has no notebook."""
    parcel = pack({"value": value}, shared=False)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    return unpack(parcel.header, parcel.frames)["value"]


def test_a_function_that_remembers(main, monkeypatch):
    book = main("""
        from functools import cache, lru_cache

        @cache
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        @lru_cache(maxsize=3, typed=True)
        def other(n):
            return fib(n)

        class Model:
            @cache
            def run(self):
                return other(9)
    """)
    assert carried(monkeypatch, book.fib)(30) == 832040
    other = carried(monkeypatch, book.other)
    assert other(9) == 34
    assert other.cache_parameters() == {"maxsize": 3, "typed": True}
    assert other.__name__ == "other"
    assert carried(monkeypatch, book.Model)().run() == 34


def test_a_function_of_a_package_that_remembers_stays_that(monkeypatch):
    assert carried(monkeypatch, fnmatch._compile_pattern) is fnmatch._compile_pattern


def test_types_that_have_a_name_only(main, monkeypatch):
    book = main("""
        from typing import Callable, Generic, NewType, ParamSpec, TypeVar, TypeVarTuple

        UserId = NewType("UserId", int)
        P = ParamSpec("P")
        Ts = TypeVarTuple("Ts")

        def named(user: UserId, ask: Callable[P, int]) -> UserId:
            return UserId(user + 1)

        class Shape(Generic[*Ts]):
            pass
    """)
    named = carried(monkeypatch, book.named)
    assert named(1, None) == 2
    kind = named.__annotations__["user"]
    assert (kind.__name__, kind.__supertype__, kind.__module__) == ("UserId", int, "__main__")
    assert named.__annotations__["return"] is kind
    assert carried(monkeypatch, book.Shape).__parameters__[0].__name__ == "Ts"


def test_a_property_that_remembers(main, monkeypatch):
    book = main("""
        from functools import cached_property

        class Model:
            count = 0

            @cached_property
            def size(self):
                '''How large it is.'''
                type(self).count += 1
                return 7
    """)
    kind = carried(monkeypatch, book.Model)
    model = kind()
    assert (model.size, model.size, kind.count) == (7, 7, 1)
    assert kind.size.__doc__ == "How large it is."


def test_a_function_that_dispatches(main, monkeypatch):
    book = main("""
        from functools import singledispatch

        @singledispatch
        def told(x):
            return "thing"

        @told.register
        def _(x: int):
            return "number"

        told(1)
    """)
    told = carried(monkeypatch, book.told)
    assert (told(1), told("a")) == ("number", "thing")
    told.register(str, lambda x: "text")
    assert told("a") == "text"


def test_what_only_a_name_is_left_of_is_refused(main):
    book = main("""
        class Missing:
            def __reduce__(self):
                return "MISSING"

        MISSING = Missing()

        def default(x=MISSING):
            return x is MISSING
    """)
    with pytest.raises(PackError, match="`MISSING` is known by its name in the notebook only"):
        pack({"default": book.default}, shared=False)


@pytest.mark.parametrize(
    "code",
    [
        "def save(): lock",
        "def save(): inner()\ndef inner(): lock",
        "class Model:\n    def run(self): lock\ndef save(): return Model()",
        "class Model:\n    def run(self): lock\nsave = Model().run",
        "from functools import cache\n@cache\ndef save(): lock",
        "def around():\n    held = lock\n    def save(): held\n    return save\nsave = around()",
    ],
)
def test_the_global_that_cannot_be_pickled_is_named(main, code):
    book = main(f"import threading\nlock = threading.Lock()\n{code}")
    with pytest.raises(PackError) as failure:
        pack({"save": book.save}, shared=False)
    assert "`save` (" in str(failure.value)
    name = "held" if "held" in code else "lock"
    user = {"class": "Model.run", "inner": "inner", "held": "around.<locals>.save"}
    user = next((u for word, u in user.items() if word in code), "save")
    assert f"`{name}`, which `{user}` uses: cannot pickle '_thread.lock' object" in str(
        failure.value
    )
