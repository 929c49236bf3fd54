"""What is unchanged is not sent twice, and both sides agree on what is kept, whatever happens."""

import json

import numpy as np
import pytest

from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.blocks import digest_sample
from flyte_jupyter.driver.values.kept import KeptBufferError
from flyte_jupyter.driver.values.segments import Segment, memfd_supported
from flyte_jupyter.driver.values.transfer import KeptBuffers, PackError, SentBuffers, pack, unpack
from tests import leaks

MIB = 1 << 20
UNSAMPLED = 5000  # of 4 MiB: a sample is taken of 4096 bytes every 16 KiB


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


class Link:
    """Both ends of one connection."""

    def __init__(self, options, **limits):
        self.options = options
        self.sent, self.kept = SentBuffers(**limits), KeptBuffers()

    def pack(self, *arrays):
        return pack(
            dict(zip("abcdefgh", arrays, strict=False)),
            sent=self.sent,
            **self.options,
        )

    def unpack(self, parcel):
        header = json.loads(json.dumps(parcel.header))
        return list(unpack(header, parcel.frames, kept=self.kept).values())

    def carry(self, *arrays):
        parcel = self.pack(*arrays)
        got = self.unpack(parcel)
        parcel.confirm()
        for one, two in zip(arrays, got, strict=True):
            assert (one == two).all()
        return parcel


@pytest.fixture
def link(options):
    link = Link(options, limit=4 * MIB)
    yield link
    link.kept.clear()


def data(seed, size=MIB):
    return np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8).copy()


def carried(parcel):
    """Count the buffers that a parcel carries, in frames or segments."""
    return sum("kept" not in place for place in parcel.header["buffers"])


def test_unchanged_buffers_are_sent_once(link):
    a, b = data(1), data(2)
    assert carried(link.carry(a, b)) == 2
    again = link.carry(a.copy(), b)
    assert carried(again) == 0
    assert again.header["segments"] == []
    b[5] += 1
    assert carried(link.carry(a, b)) == 1


def test_what_the_user_writes_is_not_seen_by_the_next_use(link):
    a = data(1)
    parcel = link.pack(a)
    (first,) = link.unpack(parcel)
    parcel.confirm()
    first[:] = 0
    parcel = link.pack(a)
    (second,) = link.unpack(parcel)
    parcel.confirm()
    assert carried(parcel) == 0
    assert (second == a).all()
    second[:] = 1
    link.carry(a)


def test_equal_buffers_in_one_parcel_are_kept_once_and_written_to_apart(link):
    a = data(1)
    parcel = link.pack(a, a.copy())
    one, two = link.unpack(parcel)
    parcel.confirm()
    one[:] = 0
    assert (two == a).all()
    assert link.sent.nbytes == link.kept.nbytes == MIB


def test_small_buffers_are_not_kept(link):
    link.carry(data(1, MIB - 1))
    assert len(link.sent) == len(link.kept) == 0


def test_least_recently_used_goes_first(link):
    arrays = [data(i) for i in range(5)]
    for each in arrays[:4]:
        link.carry(each)
    link.carry(arrays[0])
    assert carried(link.carry(arrays[4])) == 1
    assert link.sent.nbytes == link.kept.nbytes == 4 * MIB
    assert carried(link.carry(arrays[0])) == 0
    assert carried(link.carry(arrays[1])) == 1


def test_buffers_over_the_limit_are_sent_but_never_kept(link):
    link.carry(data(1))
    assert carried(link.carry(data(2, 5 * MIB))) == 1
    assert link.sent.nbytes == link.kept.nbytes == MIB


def test_inputs_larger_than_the_limit_keep_a_part_of_themselves(link):
    arrays = [data(i, 2 * MIB) for i in range(3)]
    link.carry(*arrays)
    assert carried(link.carry(*arrays)) == 1
    assert carried(link.carry(*reversed(arrays))) == 1


def test_number_of_entries_is_limited(options):
    link = Link(options, max_entries=2)
    for seed in range(5):
        link.carry(data(seed))
    assert len(link.sent) == len(link.kept) == 2
    link.kept.clear()


def test_unconfirmed_parcel_counts_for_nothing(link):
    a = data(1)
    link.pack(a).close()
    assert link.sent.nbytes == 0
    assert carried(link.carry(a)) == 1
    assert carried(link.carry(a)) == 0


def test_what_arrived_unconfirmed_is_forgotten_by_the_next_parcel(link):
    parcel = link.pack(data(1))
    link.unpack(parcel)
    parcel.close()
    parcel.confirm()
    assert link.kept.nbytes == MIB
    link.carry(data(2))
    assert link.kept.nbytes == link.sent.nbytes == MIB


def test_forgetting_is_repeated_until_confirmed(link):
    for seed in range(4):
        link.carry(data(seed))
    lost = link.pack(data(9))
    assert len(lost.header["forget"]) == 1
    lost.close()
    following = link.carry(1 * data(10, 100_000))
    assert set(lost.header["forget"]) < set(following.header["forget"])
    assert "forget" not in link.carry(data(10, 100_000)).header
    assert link.kept.nbytes == link.sent.nbytes == 3 * MIB


def test_evicted_and_sent_again_before_the_eviction_arrived(link):
    first = data(0)
    for each in (first, data(1), data(2), data(3)):
        link.carry(each)
    evicting = link.pack(data(4))
    again = link.pack(first)
    link.unpack(again)
    again.confirm()
    link.unpack(evicting)
    evicting.confirm()
    assert carried(link.carry(first)) == 0


def test_same_bytes_in_two_parcels_at_once_are_kept_once(link):
    a = data(1)
    one, two = link.pack(a), link.pack(a)
    for parcel in (one, two):
        link.unpack(parcel)
        parcel.confirm()
    assert carried(link.carry(a)) == 0
    assert link.kept.nbytes == link.sent.nbytes == MIB


def test_buffers_that_differ_where_no_sample_is_taken_are_told_apart(options):
    link = Link(options)
    a = data(1, 4 * MIB)
    b = a.copy()
    b[UNSAMPLED] ^= 1
    assert digest_sample(a.data) == digest_sample(b.data)
    assert carried(link.carry(a)) == 1
    assert carried(link.carry(b)) == 1
    assert carried(link.carry(a, b)) == 0
    link.kept.clear()


def test_such_buffers_in_one_parcel_arrive_each_and_are_kept_in_the_end(options):
    link = Link(options)
    a = data(1, 4 * MIB)
    b = a.copy()
    b[UNSAMPLED] ^= 1
    assert [carried(link.carry(a, b)) for _ in range(3)] == [2, 1, 0]
    link.kept.clear()


def test_a_sample_tells_sizes_and_both_ends():
    a = data(1, 4 * MIB)
    samples = {digest_sample(a.data)}
    for index in (0, -1):
        b = a.copy()
        b[index] ^= 1
        samples.add(digest_sample(b.data))
    zeros = np.zeros(4 * MIB + 1, np.uint8).data
    samples |= {digest_sample(zeros), digest_sample(zeros[1:])}
    assert len(samples) == 5


def test_reset_starts_anew_and_late_confirmations_mean_nothing(link):
    a, b = data(1), data(2)
    link.carry(a)
    late = link.pack(b)
    link.sent.reset()
    link.kept.clear()
    late.confirm()
    assert link.sent.nbytes == 0
    assert carried(link.carry(a, b)) == 2
    assert carried(link.carry(a, b)) == 0


def test_failed_pack_reserves_nothing(link, tmp_path, monkeypatch):
    with pytest.raises(PackError):
        pack({"a": data(1), "b": (i for i in ())}, sent=link.sent)
    monkeypatch.setattr(transfer, "memfd_supported", lambda: False)
    with pytest.raises(PackError):
        pack({"a": data(1)}, sent=link.sent, folder=tmp_path / "gone")
    with pytest.raises(PackError):
        pack({"a": data(1), "b": (i for i in ())}, sent=link.sent)
    assert link.sent.nbytes == 0


@pytest.mark.parametrize("late", [False, True])
def test_buffer_that_another_thread_changes_while_it_is_packed_is_sent_again(
    link, monkeypatch, late
):
    if not link.options.get("shared", True):
        pytest.skip("no call in between to disturb")
    a = data(1, 4 * MIB)
    before, write = a.copy(), Segment.write

    def disturbed(segment, offset, chunks):
        if late:
            write(segment, offset, chunks)
        a[UNSAMPLED] = before[UNSAMPLED] ^ 1
        if not late:
            write(segment, offset, chunks)

    monkeypatch.setattr(Segment, "write", disturbed)
    parcel = link.pack(a)
    monkeypatch.setattr(Segment, "write", write)
    (there,) = link.unpack(parcel)
    parcel.confirm()
    assert (there == (before if late else a)).all()
    assert carried(link.carry(a)) == late


def test_disagreement_is_reported(link):
    a = data(1)
    link.carry(a)
    link.kept.clear()
    parcel = link.pack(a)
    with pytest.raises(KeptBufferError):
        link.unpack(parcel)
    parcel.close()


def test_receiver_without_a_store_keeps_nothing(options):
    before = leaks.descriptors()
    parcel = pack({"a": data(1)}, sent=SentBuffers(), **options)
    assert (unpack(parcel.header, parcel.frames)["a"] == data(1)).all()
    parcel.close()
    assert not leaks.descriptors() - before


def test_descriptors_are_held_for_what_is_kept_and_no_longer(link, tmp_path):
    before = leaks.descriptors()
    for seed in range(12):
        link.carry(data(seed), data(seed + 100))
    assert len(leaks.descriptors() - before) <= len(link.kept)
    link.kept.clear()
    assert not leaks.descriptors() - before
    assert not list(tmp_path.iterdir())
