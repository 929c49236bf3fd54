"""Classes that come back, submodules that a cell names."""

from __future__ import annotations

import gc
import sys
import threading
import types
import weakref

import cloudpickle
import pytest

from flyte_jupyter.driver.submodules import import_named
from flyte_jupyter.driver.values.by_value import refusing_secrets
from flyte_jupyter.driver.values.pickling import PackError
from flyte_jupyter.driver.values.transfer import UnpackError, pack, unpack


def came_back(value):
    parcel = pack({"value": value}, shared=False)
    return unpack(parcel.header, parcel.frames, keep_classes=True)["value"]


def made(**attributes) -> type:
    """Return a class that is pickled by value."""
    kind = type("Made", (), attributes)
    kind.__module__ = "__main__"
    return kind


def test_a_class_that_is_here_stays_as_it_is():
    kind = made(count=1)
    data = pack({"value": kind()}, shared=False)
    kind.count = 2
    value = unpack(data.header, data.frames, keep_classes=True)["value"]
    assert type(value) is kind
    assert kind.count == 2
    unpack(data.header, data.frames)
    assert kind.count == 1, "what is sent there is as it was sent"


def test_what_comes_back_goes_with_its_last_reference():
    value = came_back(made()())
    gone = weakref.ref(value)
    gc.disable()
    try:
        del value
        assert gone() is None
    finally:
        gc.enable()


def test_a_class_that_was_half_rebuilt_is_rebuilt_the_next_time(monkeypatch):
    module = types.ModuleType("comes_later")
    module.value = 7
    monkeypatch.setitem(sys.modules, "comes_later", module)
    kind = made(later=module, told=lambda self: 8)
    parcel = pack({"value": kind()}, shared=False)
    forget = weakref.ref(kind)
    del kind
    gc.collect()
    assert forget() is None
    monkeypatch.delitem(sys.modules, "comes_later")
    with pytest.raises(UnpackError) as kept:
        unpack(parcel.header, parcel.frames, keep_classes=True)
    monkeypatch.setitem(sys.modules, "comes_later", module)
    value = unpack(parcel.header, parcel.frames, keep_classes=True)["value"]
    assert (value.told(), value.later.value) == (8, 7)
    assert kept.value


@pytest.fixture
def local_module(monkeypatch):
    """Make a module that travels by value."""
    made = []

    def make(name, code):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(code, vars(module))
        cloudpickle.register_pickle_by_value(module)
        made.append(module)
        return module

    yield make
    for module in made:
        cloudpickle.unregister_pickle_by_value(module)


def test_a_module_takes_no_secret_along_that_nobody_meant_to_send(local_module):
    module = local_module("settings", "API_KEY = 'xyzzy'\nDATA = 'here'")
    with refusing_secrets({"module"}):
        parcel = pack({"module": module}, shared=False)
        assert not any(b"xyzzy" in bytes(frame) for frame in parcel.frames)
        there = came_back(module)
    assert there.DATA == "here"
    with pytest.raises(AttributeError, match="`API_KEY` of settings was not sent"):
        _ = there.API_KEY
    assert not hasattr(there, "other")
    with refusing_secrets({"module", "API_KEY"}):
        assert came_back(module).API_KEY == "xyzzy"
    assert came_back(module).API_KEY == "xyzzy", "what comes from a task was meant for it"


LOCKED = """\
import threading
LOCK = ALSO = threading.Lock()
DEEP = threading.RLock()
def held():
    with LOCK, DEEP, DEEP:
        return "held"
"""


def test_a_lock_of_a_module_is_a_new_one_there(local_module):
    module = local_module("locking", LOCKED)
    with module.LOCK:
        parcel = pack({"held": module.held}, shared=False)
        assert unpack(parcel.header, parcel.frames)["held"]() == "held"
        there = came_back(module)
    assert there.held() == "held"
    assert there.LOCK is there.ALSO
    assert there.LOCK is not module.LOCK


def test_a_lock_of_nobody_cannot_be_sent(local_module):
    module = local_module("locking", LOCKED)
    with pytest.raises(PackError, match="cannot pickle"):
        came_back([module, threading.Lock()])


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    lazy.thing\nexcept ImportError:\n    pass",
        "lazy.thing = 1",
        "lazy.broken",
        "not python (",
        "lazy.a.b.c",
    ],
)
def test_looking_for_submodules_fails_no_cell(tmp_path, monkeypatch, code):
    (tmp_path / "lazy").mkdir()
    text = "def __getattr__(name):\n    raise ImportError(name)\n"
    (tmp_path / "lazy" / "__init__.py").write_text(text)
    (tmp_path / "lazy" / "broken.py").write_text("raise RuntimeError('no')")
    monkeypatch.syspath_prepend(tmp_path)
    import lazy

    try:
        import_named(code, {"lazy": lazy})
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "lazy"]:
            del sys.modules[name]
