"""Parcels that pass through a process: unpacked by others, from the very same memory."""

from __future__ import annotations

import os

import numpy as np
import pytest

from flyte_jupyter.driver.values.forwarding import forward
from flyte_jupyter.driver.values.kept import KeptBufferError
from flyte_jupyter.driver.values.segments import SegmentError
from flyte_jupyter.driver.values.transfer import KeptBuffers, SentBuffers, pack, unpack
from tests import leaks

MEGA = 1 << 20


def test_small_values_pass_in_frames():
    parcel = pack({"x": [1, 2], "y": "text"})
    passed = forward(parcel.header, parcel.frames)
    assert unpack(passed.header, passed.frames) == {"x": [1, 2], "y": "text"}
    assert passed.header["segments"] == []


def test_large_values_pass_without_a_copy_and_outlive_their_sender():
    big = np.arange(MEGA)
    parcel = pack({"big": big, "small": 1, "again": big})
    before = [(r["ino"], r["size"]) for r in parcel.header["segments"]]
    passed = forward(parcel.header, parcel.frames)
    parcel.close()
    assert {(r["ino"], r["size"]) for r in passed.header["segments"]} == set(before)
    first, second = (unpack(passed.header, passed.frames) for _ in range(2))
    first["big"][0] = 7
    assert first["again"] is first["big"]
    assert (second["big"] == big).all()
    passed.close()
    assert second["big"][-1] == MEGA - 1


def test_values_in_several_segments_pass():
    big = np.arange(20 * MEGA)  # 160 MiB
    parcel = pack({"big": big, "other": np.ones(MEGA)})
    assert len(parcel.header["segments"]) > 2
    passed = forward(parcel.header, parcel.frames)
    parcel.close()
    found = unpack(passed.header, passed.frames)
    assert (found["big"] == big).all()
    assert found["other"].sum() == MEGA
    passed.close()


def test_what_is_kept_on_the_way_is_not_sent_again():
    sent, kept = SentBuffers(), KeptBuffers()
    values = {"big": np.arange(20 * MEGA), "mid": np.ones(MEGA)}
    parcel = pack(values, sent=sent)
    first = forward(parcel.header, parcel.frames, kept=kept)
    parcel.confirm()
    first.close()
    again = pack(values, sent=sent)
    assert again.header["segments"] == []
    second = forward(again.header, again.frames, kept=kept)
    again.confirm()
    found = unpack(second.header, second.frames)
    assert (found["big"] == values["big"]).all()
    assert (found["mid"] == 1).all()
    assert all("keep" not in place and "kept" not in place for place in second.header["buffers"])
    second.close()
    kept.clear()


def test_what_comes_in_frames_is_kept_too():
    sent, kept = SentBuffers(), KeptBuffers()
    values = {"big": np.arange(MEGA)}
    for _ in range(2):
        parcel = pack(values, sent=sent, shared=False)
        passed = forward(parcel.header, parcel.frames, kept=kept)
        parcel.confirm()
        assert (unpack(passed.header, passed.frames)["big"] == values["big"]).all()
        passed.close()
    assert parcel.frames[0] is not None
    assert len(kept) == 1


def test_the_sender_has_things_forgotten():
    sent, kept = SentBuffers(limit=9 * MEGA), KeptBuffers()
    for number in range(3):
        parcel = pack({"big": np.full(MEGA, number)}, sent=sent)
        forward(parcel.header, parcel.frames, kept=kept).close()
        parcel.confirm()
    assert len(kept) == 1
    kept.clear()


def test_what_is_not_kept_is_missed():
    sent = SentBuffers()
    values = {"big": np.arange(MEGA)}
    parcel = pack(values, sent=sent)
    parcel.confirm()
    again = pack(values, sent=sent)
    with pytest.raises(KeptBufferError):
        forward(again.header, again.frames, kept=KeptBuffers())


def test_no_descriptor_is_left(monkeypatch):
    before = leaks.descriptors()
    parcel = pack({"big": np.arange(MEGA)})
    passed = forward(parcel.header, parcel.frames)
    found = unpack(passed.header, passed.frames)
    passed.close()
    passed.close()
    parcel.close()
    assert not leaks.descriptors() - before
    with pytest.raises(SegmentError):
        forward(parcel.header, parcel.frames)
    assert not leaks.descriptors() - before
    assert found["big"][5] == 5


def test_another_process_reads_what_was_passed():
    parcel = pack({"big": np.arange(MEGA)})
    passed = forward(parcel.header, parcel.frames)
    parcel.close()
    child = os.fork()
    if not child:
        found = unpack(passed.header, passed.frames)["big"]
        os._exit(0 if int(found[-1]) == MEGA - 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    passed.close()
