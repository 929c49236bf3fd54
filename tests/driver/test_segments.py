"""Segments: private to write to, impossible to mistake for another, and never left behind."""

import json
import os
import subprocess
import sys

import pytest

from flyte_jupyter.driver.values.mapping import PAGE
from flyte_jupyter.driver.values.segments import OpenSegment, Segment, SegmentError, memfd_supported
from tests import leaks

MEMFD = pytest.mark.skipif(not memfd_supported(), reason="no memfd on this system")


@pytest.fixture(params=[pytest.param("memfd", marks=MEMFD), "file"])
def folder(request, tmp_path):
    return tmp_path if request.param == "file" else None


def written(folder, data):
    segment = Segment(len(data), folder=folder)
    segment.write(0, [data])
    segment.seal()
    return segment


def test_receiver_sees_what_was_written_in_chunks_of_any_kind(folder):
    segment = Segment(PAGE + 9, folder=folder)
    segment.write(PAGE, [b"abc", bytearray(b"def"), memoryview(b"ghi")])
    opened = OpenSegment(segment.record())
    assert bytes(opened.map(PAGE, 9)) == b"abcdefghi"
    assert bytes(opened.view(PAGE + 3, 3)) == b"def"
    opened.release()
    segment.close()


def test_writing_to_a_mapping_changes_no_other(folder):
    segment = written(folder, b"x" * PAGE)
    opened = OpenSegment(segment.record())
    one, two = opened.map(0, PAGE), opened.map(0, PAGE)
    one[:3] = b"new"
    assert bytes(two[:3]) == bytes(opened.map(0, 3)) == b"xxx"
    opened.release()
    segment.close()


def test_mapping_outlives_both_ends_and_holds_no_descriptor(folder):
    before = leaks.descriptors()
    segment = written(folder, b"y" * PAGE)
    opened = OpenSegment(segment.record())
    view = opened.map(0, PAGE)
    segment.close()
    opened.release()
    assert not leaks.descriptors() - before
    assert bytes(view) == b"y" * PAGE


def test_descriptor_closes_with_the_last_user(folder):
    before = leaks.descriptors()
    segment = written(folder, b"z" * PAGE)
    opened = OpenSegment(segment.record())
    segment.close()
    opened.retain()
    opened.release()
    assert bytes(opened.map(0, 1)) == b"z"
    opened.release()
    assert not leaks.descriptors() - before


def test_dropping_both_ends_closes_them(folder):
    before = leaks.descriptors()
    segment = written(folder, b"z")
    opened = OpenSegment(segment.record())
    del segment, opened
    assert not leaks.descriptors() - before


def test_parts_outside_the_segment_are_refused(folder):
    segment = written(folder, b"z" * 10)
    opened = OpenSegment(segment.record())
    for offset, length in [(0, 11), (-1, 2), (0, 0)]:
        with pytest.raises(SegmentError, match="header does not fit"):
            opened.map(offset, length)
    opened.release()
    segment.close()


def test_closing_twice_closes_nothing_else(folder):
    segment = written(folder, b"z")
    segment.close()
    read, write = os.pipe()
    segment.close()
    os.close(read)
    os.close(write)


@MEMFD
def test_memfd_is_final_once_sealed():
    segment = written(None, b"z" * 10)
    with pytest.raises(PermissionError):
        segment.write(0, [b"a"])
    segment.close()


@MEMFD
def test_recycled_descriptor_is_refused():
    segment = written(None, b"a" * 10)
    record = segment.record()
    segment.close()
    other = written(None, b"b" * 10)
    assert other.record()["path"] == record["path"]
    with pytest.raises(SegmentError, match="is something else now"):
        OpenSegment(record)
    other.close()


@MEMFD
def test_descriptor_that_became_a_pipe_is_refused_without_waiting():
    segment = written(None, b"a" * 10)
    record = segment.record()
    segment.close()
    ends = os.pipe()
    with pytest.raises(SegmentError, match="is something else now"):
        OpenSegment(record)
    for end in ends:
        os.close(end)


@MEMFD
def test_segment_of_a_dead_process_is_reported():
    code = (
        "from flyte_jupyter.driver.values.segments import Segment\n"
        "import json\n"
        "print(json.dumps(Segment(10).record()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    with pytest.raises(SegmentError, match="cannot be opened"):
        OpenSegment(json.loads(done.stdout))


def test_file_is_private_and_unlinked_by_the_receiver(tmp_path):
    segment = written(tmp_path, b"a" * 10)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    opened = OpenSegment(segment.record())
    assert not list(tmp_path.iterdir())
    segment.close()
    assert bytes(opened.map(0, 10)) == b"a" * 10
    opened.release()


def test_file_is_unlinked_by_the_sender_when_nobody_came(tmp_path):
    written(tmp_path, b"a" * 10).close()
    assert not list(tmp_path.iterdir())


def test_file_that_was_replaced_is_left_alone(tmp_path):
    segment = written(tmp_path, b"a" * 10)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / "aside")
    file.write_bytes(b"b" * 10)
    with pytest.raises(SegmentError, match="is something else now"):
        OpenSegment(segment.record())
    assert file.exists()
    segment.close()
