"""Packing and unpacking: values arrive equal, alike in identity, writable, and as they were."""

import dataclasses
import json
import pickle
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.segments import memfd_supported
from flyte_jupyter.driver.values.transfer import PackError, UnpackError, pack, unpack
from flyte_jupyter.errors import CaptureError
from tests import leaks

BIG = 1 << 20


@pytest.fixture(params=["memfd", "file", "frames"])
def options(request, tmp_path, monkeypatch):
    if request.param == "memfd" and not memfd_supported():
        pytest.skip("no memfd on this system")
    if request.param == "file":
        monkeypatch.setattr(transfer, "memfd_supported", lambda: False)
    return {
        "memfd": {},
        "file": {"folder": tmp_path},
        "frames": {"shared": False},
    }[request.param]


def carry(values, **options):
    """Pack, take the header through JSON and the frames through bytes, unpack."""
    parcel = pack(values, **options)
    header = json.loads(json.dumps(parcel.header))
    try:
        return unpack(header, [bytes(frame) for frame in parcel.frames])
    finally:
        parcel.close()


def native(values):
    return values.astype(values.dtype.newbyteorder("="))


def same(one, two):
    if isinstance(one, np.ndarray):
        # NumPy's own way, which small arrays go, makes foreign byte orders of dates native.
        one, two = native(one), native(two)
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and repr(one) == repr(two)


arrays = npst.arrays(
    dtype=npst.scalar_dtypes() | npst.array_dtypes(),
    shape=npst.array_shapes(min_dims=0, min_side=0, max_side=5),
)
large = st.builds(
    lambda size, kind, seed: np.frombuffer(
        np.random.default_rng(seed).bytes(size * 8), kind
    ).copy(),
    st.sampled_from([8191, 8192, 8193, 40_000, 200_000]),
    st.sampled_from(["i8", "u1", "M8[ns]", "i4,i4"]),
    st.integers(0, 9),
)
leaves = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | arrays | large
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.text(min_size=1), nested, max_size=4), st.booleans())
def test_nested_structures_arrive_equal(values, shared):
    assert same(carry(values, shared=shared), values)


def test_identity_is_kept_within_and_between_names(options):
    shared, data = [1, 2], np.arange(BIG)
    values = carry({"x": shared, "y": {"x": shared, "d": data}, "z": (data,)}, **options)
    assert values["x"] is values["y"]["x"]
    assert values["y"]["d"] is values["z"][0]


def test_global_of_a_function_that_is_an_input_stays_that_object(options):
    namespace = {"__name__": "__main__"}
    exec("table = {}\ndef add(k):\n    table[k] = 1", namespace)
    for order in (("table", "add"), ("add", "table")):
        values = carry({name: namespace[name] for name in order}, **options)
        values["add"]("k")
        assert values["table"] == {"k": 1}


def test_closures_and_dataclasses_carry_arrays(options):
    data = np.arange(BIG)

    @dataclasses.dataclass
    class Box:
        content: np.ndarray

    values = carry({"f": lambda: data.sum() + 0, "box": Box(data)}, **options)
    assert values["f"]() == data.sum()
    assert values["f"].__closure__[0].cell_contents is values["box"].content


@pytest.mark.parametrize("size", [10, 100_000, 3 * BIG])
def test_either_side_may_write(options, size):
    mine = np.zeros(size, np.uint8)
    parcel = pack({"a": mine, "b": mine.copy()}, **options)
    mine[:] = 1
    theirs = unpack(parcel.header, [bytes(frame) for frame in parcel.frames])
    parcel.close()
    assert not theirs["a"].any()
    theirs["a"][:] = 2
    assert (mine == 1).all()
    assert not theirs["b"].any()


def test_writable_frames_become_the_memory_of_values():
    parcel = pack({"a": np.zeros(BIG, np.uint8)}, shared=False)
    frames = [memoryview(bytearray(frame)) for frame in parcel.frames]
    values = unpack(parcel.header, frames)
    values["a"][0] = 7
    assert frames[1][0] == 7


@pytest.mark.parametrize(
    "value",
    [b"x" * 3 * BIG, "é" * BIG, bytearray(b"x" * 3 * BIG), [str(i) for i in range(300_000)]],
    ids=["bytes", "str", "bytearray", "list"],
)
def test_large_streams(options, value):
    values = carry({"before": 1, "value": value, "after": [value]}, **options)
    assert values["value"] == value
    assert type(values["value"]) is type(value)
    assert values["after"][0] is values["value"]


@pytest.mark.parametrize("count", [1, 70])
def test_several_segments_when_there_is_much(tmp_path, count):
    values = {f"a{i}": np.full(3 * BIG, i, np.uint8) for i in range(count)}
    parcel = pack(values, folder=tmp_path)
    assert list(tmp_path.iterdir()) == [] or not memfd_supported()
    assert len(parcel.header["segments"]) == -(-count // 21)
    got = unpack(parcel.header, parcel.frames)
    assert all((got[f"a{i}"] == i).all() for i in range(count))
    parcel.close()


def test_small_parcels_need_no_segment():
    assert pack({}).header["segments"] == []
    assert pack({"a": np.zeros(100_000, np.uint8)}).header["segments"] == []
    assert carry({}) == {}


def test_sizes_are_told_by_name(options):
    shared = np.zeros(BIG, np.uint8)
    parcel = pack({"a": shared, "alias": shared, "s": "x" * 1000, "f": shared[::2]}, **options)
    parcel.close()
    assert BIG <= parcel.sizes["a"] < BIG + 1000
    assert parcel.sizes["alias"] < 100
    assert 1000 <= parcel.sizes["s"] < 1100
    assert BIG // 2 <= parcel.sizes["f"] < BIG // 2 + 1000


class Refusing:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def test_failure_names_variable_type_and_reason(options):
    conn = sqlite3.connect(":memory:")
    with pytest.raises(PackError) as caught:
        pack({"ok": 1, "conn": conn}, **options)
    conn.close()
    assert isinstance(caught.value, CaptureError)
    assert caught.value.variable == "conn"
    reason = "cannot pickle 'sqlite3.Connection' object"
    assert str(caught.value) == f"`conn` (sqlite3.Connection) cannot be pickled: {reason}"


def test_failure_inside_a_users_reduce_gives_its_innermost_reason():
    error = ValueError("outer")
    error.__cause__ = KeyError("the cause\nand more")
    with pytest.raises(PackError, match=r"^`v` \(dict\) cannot be pickled: KeyError: 'the cause"):
        pack({"v": {"deep": [Refusing(error)]}})


def test_an_exception_that_cannot_be_printed_is_still_reported():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError

    with pytest.raises(PackError, match=r"cannot be pickled: MuteError$"):
        pack({"v": Refusing(MuteError())})


def test_deep_nesting_is_reported():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PackError, match="nested too deeply"):
        pack({"deep": deep})


def test_interrupts_are_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        pack({"v": Refusing(KeyboardInterrupt())})


def test_pack_error_can_cross_processes():
    error = PackError.of("x", [], TypeError("no"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.variable) == (str(error), "x")


def test_failure_leaves_nothing(options, tmp_path):
    before = leaks.descriptors()
    with pytest.raises(PackError):
        pack({"a": np.zeros(BIG), "v": Refusing(TypeError("no"))}, **options)
    assert not leaks.descriptors() - before
    assert not list(tmp_path.iterdir())


def test_lack_of_room_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "memfd_supported", lambda: False)
    before = leaks.descriptors()
    with pytest.raises(PackError, match="Shared memory cannot take the values: No such file"):
        pack({"a": np.zeros(BIG)}, folder=tmp_path / "gone")
    assert not leaks.descriptors() - before


def fail():
    raise ImportError("No module named 'far_away'")


class Unrebuildable:
    def __reduce__(self):
        return fail, ()


def test_value_that_cannot_be_rebuilt_is_named(options):
    before = leaks.descriptors()
    with pytest.raises(UnpackError, match=r"`bad` cannot be rebuilt.*far_away"):
        carry({"a": np.zeros(BIG), "bad": Unrebuildable()}, **options)
    assert not leaks.descriptors() - before


def test_registered_reducers_win(monkeypatch):
    import copyreg

    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda a: (str, ("mine",)))
    assert carry({"a": np.zeros(BIG)}) == {"a": "mine"}
