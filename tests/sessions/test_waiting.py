"""Waits of the user's, which an interrupt ends."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time

import pytest

from flyte_jupyter.sessions.waiting import result_of, see_through


def test_a_result_or_an_error_is_given():
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    threading.Timer(0.2, future.set_result, [42]).start()
    assert result_of(future) == 42
    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    failed.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        result_of(failed, 1)


@pytest.mark.parametrize("timeout", [0, 0.01, 0.15])
def test_a_limit_ends_the_wait(timeout):
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    with pytest.raises(TimeoutError):
        result_of(future, timeout)
    assert not future.done()


def test_an_interrupt_is_heard_that_another_thread_was_given():
    future: concurrent.futures.Future[int] = concurrent.futures.Future()

    def interrupt() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        time.sleep(20)
        future.cancel()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            result_of(future)
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupts_are_counted_and_do_not_end_a_wait_wherever_they_come():
    """The waiting thread is hardly ever asleep here, so that many come as its loop jumps back."""
    heard: list[bool] = []
    main, ended = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        for count in range(200):
            # The first instructions after one was heard are not covered.
            while len(heard) < count or ended.wait(0.0005):
                if ended.is_set():
                    return
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupting = threading.Thread(target=interrupt)
    try:
        interrupting.start()
        see_through(lambda: len(heard) == 200, lambda: None, heard.append)
    except KeyboardInterrupt:
        pytest.fail("one has ended the wait")
    finally:
        ended.set()
        interrupting.join()
        signal.signal(signal.SIGINT, before)
    assert heard == [False] + [True] * 199
