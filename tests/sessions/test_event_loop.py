"""The one thread in which a session's input and output happens."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from flyte_jupyter.sessions.event_loop import EventLoopThread


@pytest.fixture
def thread():
    made = EventLoopThread()
    yield made
    made.stop()


async def value(what):
    await asyncio.sleep(0)
    return what


async def name():
    return threading.current_thread().name


def test_coroutines_run_on_a_thread_of_their_own(thread):
    assert thread.run(value(42)) == 42
    assert thread.run(name()) == "flyte-jupyter"
    assert not thread.inside

    async def inside():
        return thread.inside

    assert thread.run(inside())


def test_it_can_be_used_again_after_it_was_stopped(thread):
    first = thread.loop
    thread.stop()
    thread.stop()
    assert first.is_closed()
    assert thread.run(value(1)) == 1
    assert thread.loop is not first


def test_a_wait_that_takes_too_long_cancels_what_it_waited_for(thread):
    cancelled = threading.Event()

    async def slow():
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError):
        thread.run(slow(), 0.05)
    assert cancelled.wait(10)


def test_stopping_cancels_what_is_under_way(thread):
    begun, ended = threading.Event(), threading.Event()

    async def slow():
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    future = thread.submit(slow())
    assert begun.wait(10)
    thread.stop()
    assert ended.is_set()
    assert future.cancelled()


def test_an_error_is_raised_where_it_is_waited_for(thread):
    async def fail():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        thread.run(fail())


def test_a_forked_child_gets_a_loop_of_its_own(thread):
    thread.run(value(1))
    pid = os.fork()
    if not pid:
        os._exit(0 if thread.run(value(3), 20) == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert thread.run(value(2)) == 2
