"""What a notebook defines beside functions and classes, and what its functions use."""

from __future__ import annotations

import fnmatch
import sys
import textwrap
import types
import weakref
from typing import Any

import pytest

from flyte_jupyter.driver.values import origins
from flyte_jupyter.driver.values.placing import placing_definitions
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


def test_what_a_task_has_done_to_a_function_comes_back(main):
    book = main("""
        def remembers(x, seen=[]):
            return seen

        def trained(x):
            return trained.weights

        trained.weights = 0
        """)
    for value in (book.remembers, book.trained):
        parcel = pack({"value": value}, shared=False)
        there = unpack(parcel.header, parcel.frames)["value"]
        (there.__defaults__ or [[]])[0].append(1)
        there.weights = 5
        parcel = pack({"value": there}, shared=False)
        back = unpack(parcel.header, parcel.frames, keep_classes=True)["value"]
        assert back is not value
        assert back.weights == 5
        assert (back.__defaults__ or ([1],))[0] == [1]


def test_a_function_that_comes_back_is_itself(main, monkeypatch):
    book = main("""
        import functools

        k = 1

        def clean(x):
            return x + k

        @functools.cache
        def cached():
            return 1

        steps = [lambda x, n=n: n for n in range(3)]

        def counter():
            count = 0

            def up():
                nonlocal count
                count += 1
                return count

            return up

        up = counter()
    """)
    there = pack({"all": [book.clean, book.cached, *book.steps, book.up]}, shared=False)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(origins, "_names", weakref.WeakKeyDictionary())
        elsewhere.setattr(origins, "_here", weakref.WeakValueDictionary())
        values = unpack(there.header, there.frames)["all"]
        values[0].__defaults__ = (5,)
        assert values[-1]() == 1
        back = pack({"all": [*values, lambda: 0]}, shared=False)
    clean, cached, *steps, up, new = unpack(back.header, back.frames, keep_classes=True)["all"]
    assert clean is book.clean
    assert clean.__defaults__ is None
    assert cached is book.cached
    assert steps == book.steps
    assert up() == 2, "what is around a function comes back with it"
    assert new.__name__ == "<lambda>"


def test_a_function_of_another_process_is_made_anew_whenever_it_comes(main):
    data = pack({"f": vars(main("def f(): pass")).pop("f")}, shared=False)
    one, other = (unpack(data.header, data.frames, keep_classes=True)["f"] for _ in range(2))
    assert one is not other


def test_definitions_behind_values_are_placed(main):
    book = main("""
        import dataclasses, enum, functools

        class Net:
            def step(self):
                return helper()

        def helper():
            return limit

        class Colour(enum.Enum):
            RED = 1

        def wrapped(f):
            @functools.wraps(f)
            def g():
                return f()
            return g

        @wrapped
        def decorated():
            return 1

        @functools.cache
        def cached():
            return 1

        limit = 3
        things = [Net(), Colour.RED, decorated, cached, lambda: 1]
    """)
    parcel = pack({"things": book.things, "helper": book.helper}, shared=False)
    namespace = {"Colour": "of the cell"}
    with placing_definitions(namespace):
        values = unpack(parcel.header, parcel.frames)
    net, _, decorated, cached, _ = values["things"]
    assert namespace == {
        "Colour": "of the cell",
        "Net": type(net),
        "helper": values["helper"],
        "decorated": decorated,
        "cached": cached,
    }
