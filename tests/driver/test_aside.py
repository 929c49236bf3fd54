"""Work that nobody waits for."""

import gc
import os
import queue
import time
import weakref

import numpy
import pytest

from flyte_jupyter.driver.values import mapping
from flyte_jupyter.driver.values.aside import WORTH_A_THREAD, aside, give_back
from flyte_jupyter.driver.values.mapping import FilePart, map_private


def settled():
    """Wait until all that was put aside before has been done."""
    done = queue.SimpleQueue()
    aside(done.put, None)
    done.get(timeout=30)


def test_calls_come_in_order_and_from_another_thread():
    import threading

    seen = []
    for number in range(100):
        aside(lambda n: seen.append((n, threading.get_ident())), number)
    settled()
    assert [n for n, _ in seen] == list(range(100))
    assert {thread for _, thread in seen} != {threading.get_ident()}


def test_little_is_given_back_at_once_and_much_aside():
    import threading

    seen = []
    give_back(1, lambda: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]
    give_back(WORTH_A_THREAD, lambda: seen.append(threading.get_ident()))
    settled()
    assert seen[1] != seen[0]


def test_a_finalizer_may_call_it_at_any_moment():
    class Thing:
        pass

    seen = []
    for number in range(200):
        one, other = Thing(), Thing()
        one.other, other.one = other, one  # freed by the collector, at a moment of its own
        weakref.finalize(one, aside, seen.append, number)
    del one, other
    gc.collect()
    settled()
    assert sorted(seen) == list(range(200))


def test_a_forked_child_has_a_thread_of_its_own():
    settled()  # so that the parent has one
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        aside(os.write, writer, b"done")
        time.sleep(30)
        os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 10) == b"done"
    finally:
        os.close(reader)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.fixture
def large():
    fd = os.memfd_create("test")
    data = numpy.arange(5 * WORTH_A_THREAD // 8)
    os.write(fd, data)
    yield fd, data
    os.close(fd)


def maps_at(address):
    with open("/proc/self/maps") as maps:
        return any(line.startswith(f"{address:x}-") for line in maps)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux tells of its mappings")
def test_pages_are_entered_ahead_and_given_back(large):
    fd, data = large
    found = numpy.frombuffer(map_private([FilePart(fd, 0, data.nbytes)]), dtype=data.dtype)
    address = found.ctypes.data
    settled()
    faults = minor_faults()
    assert (found[::512] == data[::512]).all()
    assert minor_faults() - faults < 400  # of 20480 pages, entered 16 at a time else
    assert maps_at(address)
    del found
    settled()
    assert not maps_at(address)


def test_what_is_freed_while_its_pages_are_entered(large, monkeypatch):
    fd, data = large
    monkeypatch.setattr(mapping, "_STEP", mapping.PAGE)  # as slow as can be
    for _ in range(20):
        found = numpy.frombuffer(map_private([FilePart(fd, 0, data.nbytes)]), dtype=data.dtype)
        assert found[0] == 0
        del found
    settled()


def minor_faults():
    import resource

    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
