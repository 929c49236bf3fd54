"""Buffers that are spread over several segments: whole, private, kept and freed as small ones."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flyte_jupyter.driver.values import blocks, parcel, transfer
from flyte_jupyter.driver.values.blocks import BLOCK, digest, digest_all
from flyte_jupyter.driver.values.segments import OpenSegment, Segment, SegmentError, memfd_supported
from flyte_jupyter.driver.values.transfer import KeptBuffers, PackError, SentBuffers, pack, unpack
from tests import leaks

pytestmark = pytest.mark.skipif(not memfd_supported(), reason="files are not cut")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CUT = 4 * BLOCK


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    """Have cut, and handled by several threads, what is quick to handle."""
    monkeypatch.setattr(parcel, "_SEGMENT_SIZE", CUT)
    monkeypatch.setattr(blocks, "_WORTH_THREADS", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def data(size, seed=0):
    return np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8).copy()


def carry(values, **options):
    packed = pack(values, **options)
    try:
        return unpack(packed.header, packed.frames)
    finally:
        packed.close()


def mappings():
    """Count the mapped parts of segments in this process."""
    return Path("/proc/self/maps").read_text().count("/memfd:flyte-jupyter")


@pytest.mark.parametrize("size", [CUT, CUT + 1, 2 * CUT, 3 * CUT + 4097, 5 * CUT - 1])
def test_odd_sizes_arrive_whole(size):
    mine = data(size)
    packed = pack({"a": mine})
    assert len(packed.header["segments"]) == -(-size // CUT)
    assert sum(record["size"] for record in packed.header["segments"]) == size
    theirs = unpack(packed.header, packed.frames)["a"]
    packed.close()
    assert (theirs == mine).all()


def test_large_and_small_buffers_and_a_large_stream_share_a_parcel():
    values = {
        "text": "é" * 2 * CUT,
        "small": data(300_000),
        "large": data(2 * CUT + 77, 1),
        "next": data(CUT // 2, 2),
        "strided": data(4 * CUT, 3)[::2],
    }
    theirs = carry(values)
    assert theirs["text"] == values["text"]
    assert all((theirs[name] == values[name]).all() for name in values if name != "text")


def test_either_side_writes_across_the_cut_alone():
    mine = np.zeros(3 * CUT, np.uint8)
    packed = pack({"a": mine, "b": mine})
    mine[:] = 1
    one, two = (unpack(packed.header, packed.frames)["a"] for _ in range(2))
    packed.close()
    assert not one.any()
    for cut in np.cumsum([record["size"] for record in packed.header["segments"]])[:-1]:
        one[cut - 5 : cut + 5] = 7
    assert np.count_nonzero(one) == 10 * (len(packed.header["segments"]) - 1)
    assert not two.any()
    assert (mine == 1).all()


@LINUX
def test_everything_is_freed_with_the_array():
    mine, descriptors, before = data(3 * CUT + 5), leaks.descriptors(), mappings()
    packed = pack({"a": mine})
    theirs = unpack(packed.header, packed.frames)["a"]
    packed.close()
    assert mappings() == before + len(packed.header["segments"])
    assert not leaks.descriptors() - descriptors
    part = theirs[CUT - 5 : CUT + 5]
    del theirs
    assert (part == mine[CUT - 5 : CUT + 5]).all()
    del part
    assert mappings() == before


@LINUX
def test_kept_and_sent_again():
    mine, sent, kept = data(3 * CUT + 5), SentBuffers(), KeptBuffers()
    descriptors, before = leaks.descriptors(), mappings()
    for round_ in range(3):
        packed = pack({"a": mine}, sent=sent)
        assert bool(packed.header["segments"]) == (round_ == 0)
        theirs = unpack(packed.header, packed.frames, kept=kept)["a"]
        packed.confirm()
        assert (theirs == mine).all()
        theirs[:] = 0
    del theirs
    assert len(leaks.descriptors() - descriptors) == 4
    mine[CUT] += 1
    packed = pack({"a": mine}, sent=sent)
    assert packed.header["segments"]
    assert (unpack(packed.header, packed.frames, kept=kept)["a"] == mine).all()
    packed.confirm()
    kept.clear()
    sent.reset()
    assert not leaks.descriptors() - descriptors
    assert mappings() == before


def test_one_changed_under_the_hands_of_another_thread_is_sent_again(monkeypatch):
    mine, sent, write = data(3 * CUT), SentBuffers(), Segment.write
    other = mine[5000] ^ 1

    def disturbed(segment, offset, chunks):
        write(segment, offset, chunks)
        mine[5000] = other

    monkeypatch.setattr(Segment, "write", disturbed)
    for where in ("keep", "keep", "kept"):
        packed = pack({"a": mine}, sent=sent)
        assert where in packed.header["buffers"][0]
        packed.confirm()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_in_any_thread_stops_all_and_leaves_nothing(monkeypatch, error):
    mine, before, write = data(8 * CUT), leaks.descriptors(), Segment.write
    calls = []

    def failing(segment, offset, chunks):
        calls.append(offset)
        if len(calls) == 6:
            raise error
        write(segment, offset, chunks)

    monkeypatch.setattr(Segment, "write", failing)
    expected = PackError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        pack({"a": mine}, sent=SentBuffers())
    assert len(calls) <= 6 + 4
    assert not leaks.descriptors() - before
    mine.resize(1, refcheck=False)


def test_number_of_segments_is_bounded():
    packed = pack({"a": np.zeros(100 * CUT, np.uint8), "b": np.zeros(30 * CUT, np.uint8)})
    assert len(packed.header["segments"]) <= 65
    packed.close()


def test_without_a_second_thread_all_is_written_by_the_first(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(blocks.threading.Thread, "start", refuse)
    mine = data(3 * CUT)
    assert (carry({"a": mine}, sent=SentBuffers())["a"] == mine).all()


def test_header_that_reaches_beyond_the_segments_is_refused():
    packed = pack({"a": data(2 * CUT)})
    packed.header["buffers"][0]["length"] += 1
    with pytest.raises(SegmentError, match="header does not fit"):
        unpack(packed.header, packed.frames)
    packed.close()


def test_files_are_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "memfd_supported", lambda: False)
    mine = data(3 * CUT)
    packed = pack({"a": mine}, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert (unpack(packed.header, packed.frames)["a"] == mine).all()
    packed.close()
    assert not list(tmp_path.iterdir())


def test_no_file_is_made_where_there_are_memfds(tmp_path):
    packed = pack({"a": data(2 * CUT)}, folder=tmp_path)
    assert packed.header["segments"]
    assert not list(tmp_path.iterdir())
    packed.close()


def test_a_failed_mapping_gives_its_addresses_back():
    packed = pack({"a": data(3 * CUT)})
    before = Path("/proc/self/maps").read_text().count("\n")
    records = packed.header["segments"]
    opened = [OpenSegment(record) for record in records]
    os.close(opened[1]._fd)
    opened[1]._closing.detach()
    with pytest.raises(SegmentError, match="cannot be mapped"):
        transfer.Extent(opened, 0, 0, 3 * CUT).map()
    assert Path("/proc/self/maps").read_text().count("\n") <= before
    for each in (opened[0], opened[2]):
        each.release()
    packed.close()


def test_digests_by_several_threads_are_those_by_one():
    views = [memoryview(data(size)) for size in (BLOCK, 70 * BLOCK + 1, BLOCK - 1)]
    assert digest_all(views) == [digest(view) for view in views]
    assert len(set(digest_all(views))) == 3
    swapped = np.concatenate([views[1][BLOCK : 2 * BLOCK], views[1][:BLOCK], views[1][2 * BLOCK :]])
    assert digest(swapped.data) != digest(views[1])


def test_packing_and_unpacking_copy_nothing_else():
    code = """
import numpy as np
from flyte_jupyter.driver.values.transfer import SentBuffers, pack, unpack
def peak():
    lines = open('/proc/self/status').read().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith('VmHWM'))
a = np.ones(150 << 20, np.uint8)
start = peak()
parcel = pack({'a': a}, sent=SentBuffers())
b = unpack(parcel.header, parcel.frames)['a']
parcel.close()
assert b[0] == b[-1] == 1
print(peak() - start, len(parcel.header['segments']))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    extra, segments = map(int, done.stdout.split())
    assert extra << 10 < 15 << 20
    assert segments == 3
