"""Data of the usual libraries: equal on arrival, and out of the pickle stream when it is large."""

import array
import warnings

import numpy as np
import pytest

from flyte_jupyter.driver.values.transfer import pack, unpack

N = 100_000


def carry(value, in_band=20_000):
    """Send one value; unless told otherwise its bulk must not lie in the pickle stream."""
    parcel = pack({"v": value}, shared=False)
    assert len(parcel.frames[0]) <= in_band
    return unpack(parcel.header, parcel.frames)["v"]


cube = np.arange(3 * N, dtype="f8").reshape(30, 100, 100)
records = np.zeros(N, [("a", "i4"), ("b", "M8[s]"), ("c", "U3"), ("d", "f8", (2,))])
records["b"] = np.arange(N)
records["c"] = "abc"


@pytest.mark.parametrize(
    "value",
    [
        cube,
        cube.T,
        cube.transpose(1, 0, 2),
        cube[:, ::2],
        cube[::-1],
        cube[..., 1:7],
        np.asfortranarray(cube),
        np.arange(N).astype("M8[ns]"),
        np.arange(N).astype("m8[s]"),
        np.arange(N).astype(">i4"),
        (np.arange(N) % 999).astype("f2"),
        np.arange(N).astype("c16"),
        np.arange(N).astype("g"),
        np.arange(N).astype("U8"),
        np.arange(N).astype("S8"),
        records,
        records["d"],
        np.zeros((), "V200000"),
        np.zeros((N, 0)),
        np.broadcast_to(np.arange(10), (N, 10)),
        np.array(5),
        np.array([]),
        np.zeros((0, 4), "M8[D]"),
    ],
    ids=lambda a: f"{a.dtype.str if not a.dtype.names else 'record'}-{a.shape}-{a.strides}",
)
def test_arrays(value):
    got = carry(value)
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    assert got.tobytes() == value.tobytes()
    if value.nbytes >= 64 << 10 and 0 not in value.strides:
        assert np.argsort(got.strides).tolist() == np.argsort(np.abs(value.strides)).tolist()


def test_arrays_are_writable_unless_they_were_not():
    fixed = np.arange(N)
    fixed.flags.writeable = False
    assert carry(np.arange(N)).flags.writeable
    assert carry(np.arange(N)[::2]).flags.writeable
    assert not carry(fixed).flags.writeable
    assert not carry(fixed[::2]).flags.writeable
    assert carry(np.arange(3)).flags.writeable


def test_object_and_string_arrays():
    values = np.array([{"a": 1}, None, "x"] * 30_000, dtype=object)
    assert carry(values, 10**7).tolist() == values.tolist()
    strings = np.array(["a", "bc"] * N, dtype=np.dtypes.StringDType())
    assert (carry(strings, 10**7) == strings).all()


def test_array_subclasses(tmp_path):
    on_disk = np.memmap(tmp_path / "data", "f8", "w+", shape=(N,))
    on_disk[:] = np.arange(N)
    assert (carry(on_disk) == on_disk).all()
    rec = records.view(np.recarray)
    got = carry(rec)
    assert type(got) is np.recarray
    assert (got.a == rec.a).all()

    class Mine(np.ndarray):
        pass

    assert type(carry(np.arange(N).view(Mine), 10**7)) is Mine


def mapped(value):
    """Send a value to a process of this machine."""
    parcel = pack({"v": value}, files=True)
    try:
        return unpack(parcel.header, parcel.frames)["v"], parcel.sizes["v"]
    finally:
        parcel.close()


@pytest.mark.parametrize(
    "part",
    [
        lambda m: m,
        lambda m: m[100:],
        lambda m: m[3],
        lambda m: m.T,
        lambda m: m.reshape(-1, 2)[7:50].reshape(43, 2),
    ],
)
def test_a_mapped_file_is_mapped_there_too(tmp_path, part):
    path = tmp_path / "data"
    whole = np.memmap(path, "f4", "w+", offset=16, shape=(N, 4))
    whole[:] = np.arange(4 * N).reshape(N, 4)
    sent = part(whole)
    got, size = mapped(sent)
    assert type(got) is np.memmap
    assert size < 2000
    assert (got == sent).all()
    got[...] = 7
    assert (sent == 7).all(), "what is written is in the file"
    whole.flags.writeable = False
    assert not mapped(part(whole))[0].flags.writeable


def test_a_mapped_file_that_is_returned_is_a_copy(tmp_path):
    """It may go with the cell that has made it."""
    path = tmp_path / "data"
    parcel = pack({"v": np.memmap(path, "f4", "w+", shape=(N, 4))})
    path.unlink()
    assert (unpack(parcel.header, parcel.frames)["v"] == 0).all()
    parcel.close()


def test_a_mapped_file_goes_as_a_copy_where_it_is_not_the_same_there(tmp_path):
    path = tmp_path / "data"
    whole = np.memmap(path, "f4", "w+", shape=(N, 4))
    own = np.memmap(path, "f4", "c", shape=(N, 4))
    own[:] = 5
    got, _ = mapped(own)
    got[0] = 6
    assert (got[1:] == 5).all()
    assert (whole == 0).all()
    for value in (whole[:, 1], whole[:0], np.asarray(whole)):
        assert (mapped(value)[0] == value).all()
    path.unlink()
    assert (mapped(whole)[0] == 0).all()


@pytest.mark.parametrize("mask", [np.ma.nomask, np.arange(N) % 2 == 0])
def test_masked_arrays(mask):
    value = np.ma.MaskedArray(np.arange(N), mask=mask, fill_value=-5, hard_mask=True)
    got = carry(value)
    assert (got.filled() == value.filled()).all()
    assert (got.mask is np.ma.nomask) == (value.mask is np.ma.nomask)
    assert (got.fill_value, got.hardmask) == (-5, True)
    structured = np.ma.MaskedArray(records, fill_value=np.zeros((), records.dtype))
    assert (carry(structured).data == records).all()


@pytest.mark.parametrize("size", [0, 5, N])
def test_standard_library_buffers(size):
    ints = array.array("i", range(size))
    assert carry(ints) == ints
    assert carry(ints).typecode == "i"
    view = memoryview(ints)
    assert carry(view) == view.tolist() or carry(view) == view
    assert carry(memoryview(bytes(size))).readonly
    assert carry(memoryview(bytearray(size * 2))[::2], 10**6) == bytes(size)
    assert carry(memoryview(np.zeros((size, 2)))).nbytes == size * 16


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "f": np.arange(N, dtype="f8"),
            "i": np.arange(N),
            "t": pd.date_range("2020", periods=N, freq="s", tz="Europe/Paris"),
            "d": pd.to_timedelta(np.arange(N), unit="s"),
            "c": pd.Categorical(["a", "b"] * (N // 2)),
            "s": pd.array(["x", "yz"] * (N // 2), dtype="str"),
            "n": pd.array([1, None] * (N // 2), dtype="Int64"),
        }
    )
    # Before pandas 3, texts are objects, and so lie in the stream.
    texts = 0 if pd.__version__ >= "3" else 400_000
    for value in (
        frame,
        frame["t"],
        frame["c"],
        frame[::2],
        frame.iloc[5:10],
        frame.T.iloc[:2, :9],
    ):
        got = carry(value, 200_000 + texts)
        assert got.equals(value)
    many = frame.set_index(["i", "c"])
    pd.testing.assert_frame_equal(carry(many, 20_000 + texts), many)
    got = carry(frame, 20_000 + texts)
    got.loc[0, "f"] = 9.0
    got["i"] += 1
    assert got.loc[0, "f"] == 9.0
    objects = pd.DataFrame({"o": [[1], "x"] * 10})
    pd.testing.assert_frame_equal(carry(objects), objects)


def test_arrow():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"i": np.arange(N), "s": ["abc", None] * (N // 2), "l": [[1, 2]] * N})
    assert carry(table).equals(table)
    batch = table.to_batches()[0]
    assert carry(batch).equals(batch)
    assert carry(table["s"]).equals(table["s"])


def test_arrow_slices_do_not_take_the_whole_along():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"i": np.arange(N), "s": ["abc"] * N}).slice(100, 50)
    for value in (table, table.to_batches()[0]):
        parcel = pack({"v": value}, shared=False)
        assert parcel.sizes["v"] < 10_000
        got = unpack(parcel.header, parcel.frames)["v"]
        assert type(got) is type(value)
        assert got.equals(value)
    assert carry(table.slice(0, 0)).num_rows == 0
    empty = table.to_batches()[0].slice(0, 0)
    assert carry(empty).equals(empty)


def test_scipy_sparse():
    sparse = pytest.importorskip("scipy.sparse")
    value = sparse.random(1000, 1000, density=0.1, format="csr", rng=1)
    assert (carry(value) != value).nnz == 0


@pytest.fixture
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


def test_tensors(torch):
    cube = torch.arange(3 * N, dtype=torch.float32).reshape(30, 100, 100)
    values = [
        cube,
        cube.permute(2, 0, 1),
        cube[:, ::2],
        cube[0, :5],
        cube.to(torch.bfloat16),
        cube.to(torch.float8_e5m2),
        cube.to(torch.complex64).conj(),
        cube > 5,
        cube.to(torch.int64),
        torch.zeros(4, 1).expand(4, N),
        torch.tensor(5),
        torch.empty(0, 3),
        cube.clone().requires_grad_(),
        cube.clone().requires_grad_() * 2,
        cube.reshape(2, 15, 100, 100).contiguous(memory_format=torch.channels_last),
    ]
    for value in values:
        got = carry(value)
        assert type(got) is torch.Tensor
        assert got.dtype == value.dtype
        assert got.requires_grad == value.requires_grad
        assert torch.equal(got.to(torch.complex64), value.to(torch.complex64))
    got = carry(cube)
    got.zero_()
    assert cube.any()


def test_tensors_keep_their_memory_layout(torch):
    image = torch.rand(2, 3, 200, 200).contiguous(memory_format=torch.channels_last)
    assert carry(image).is_contiguous(memory_format=torch.channels_last)


def test_parameters_and_modules(torch):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(300, 300)
            self.two = torch.nn.Linear(300, 300)
            self.two.weight = self.one.weight

    module = Tied()
    module.one.bias.requires_grad_(False)
    got = carry(module)
    assert got.one.weight is got.two.weight
    assert type(got.one.weight) is torch.nn.Parameter
    assert not got.one.bias.requires_grad
    value = torch.rand(5, 300)
    assert torch.equal(module.one(value), got.one(value))
    got.one(value).sum().backward()
    assert got.one.weight.grad is not None


def test_views_of_one_storage_are_right_in_value(torch):
    base = torch.arange(N)
    got = carry([base, base[10:], base.view(-1, 10)])
    assert torch.equal(got[1], base[10:])
    assert torch.equal(got[2], base.view(-1, 10))


def test_tensors_with_more_to_them_are_left_to_torch(torch):
    tagged = torch.zeros(10)
    tagged.tag = "mine"
    assert carry(tagged).tag == "mine"
    sparse = torch.eye(1000).to_sparse()
    assert torch.equal(carry(sparse, 10**5).to_dense(), torch.eye(1000))
