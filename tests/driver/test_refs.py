"""Values that stay in the driver."""

from __future__ import annotations

import weakref

import numpy as np
import pandas as pd
import pytest

from flyte_jupyter.driver import refs
from flyte_jupyter.driver.refs import RefStore, preview, resolve, size_of
from flyte_jupyter.errors import RefLost


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(refs, "_store", None)
    made = RefStore("abcdef.1")
    made.publish()
    return made


def test_a_value_is_kept_under_an_id_of_its_own(store):
    value = [1, 2]
    first, second = store.keep(value), store.keep(value)
    assert (first["id"], second["id"]) == ("abcdef.1-1", "abcdef.1-2")
    assert first["type"] == "list"
    assert resolve(first["id"]) is value
    store.drop(first["id"])
    store.drop(first["id"])
    with pytest.raises(RefLost, match=r"this driver holds no value abcdef\.1-1"):
        resolve(first["id"])
    assert resolve(second["id"]) is value


def test_what_a_value_came_from_is_kept_as_long_as_the_value(store):
    source = Hostile()
    alive = weakref.ref(source)
    name = store.keep(1, source)["id"]
    assert store.source(name) is source
    assert store.source(store.keep(2)["id"]) is None
    del source
    assert alive() is not None
    store.drop(name)
    assert alive() is None
    assert store.source(name) is None


def test_without_a_store_every_ref_is_lost(monkeypatch):
    monkeypatch.setattr(refs, "_store", None)
    with pytest.raises(RefLost):
        resolve("anything")


def test_a_type_is_named_with_its_package(store):
    assert store.keep(pd.DataFrame())["type"] == "pandas.DataFrame"
    assert store.keep(np.zeros(1))["type"] == "numpy.ndarray"


class Hostile:
    @property
    def nbytes(self):
        raise RuntimeError("no")

    def memory_usage(self):
        return "a lot"

    def __repr__(self):
        raise ValueError("never")


class HostileArray(Hostile):
    shape = ()


def test_sizes_are_what_values_say_of_themselves(store):
    assert size_of(np.zeros(1000)) == 8000
    assert size_of(pd.DataFrame({"a": np.zeros(1000)})) >= 8000
    assert size_of([1, 2, 3]) > 0
    assert size_of(Hostile()) >= 0


def test_a_preview_is_short_and_never_raises():
    assert preview([1, 2]) == "[1, 2]"
    assert len(preview(list(range(10**6)))) < 100
    assert len(preview("x" * 10**6)) < 100
    assert len(preview(np.zeros((1000, 1000)))) <= 500
    assert preview(Hostile()).startswith("<Hostile instance at")
    assert preview(HostileArray()) == "<repr failed: ValueError: never>"
