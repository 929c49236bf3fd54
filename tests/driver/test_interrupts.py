"""Interrupts that are put off, and let in."""

# ruff: noqa: PT012 - what a block does after the interrupt is what is tested

import signal
import threading

import pytest

from flyte_jupyter.driver import interrupts


@pytest.fixture(autouse=True)
def handler():
    """Take SIGINT as the driver does in a cell's code."""

    def on_signal(number, frame):
        if not interrupts.put_off():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_without_a_block_nothing_is_put_off():
    assert not interrupts.put_off()
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_a_block_ends_before_the_interrupt_comes():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupt()
        interrupt()
        done.append(1)
    assert done
    with interrupts.held():
        pass


def test_the_interrupt_takes_the_place_of_an_error():
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupt()
        raise ValueError


def test_an_inner_block_does_not_end_the_outer():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        with interrupts.held():
            interrupt()
        done.append(1)
    assert done


def never():
    raise AssertionError


def test_it_is_let_in_where_the_block_waits():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupts.let_in(lambda: (interrupt(), never()))
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupt()
        done.append(1)
        interrupts.let_in(never)
    assert done


def test_after_it_was_let_in_it_is_put_off_again():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupts.let_in(lambda: None)
        interrupt()
        done.append(1)
    assert done


def test_one_that_was_let_in_is_not_told_twice():
    with interrupts.held(), pytest.raises(KeyboardInterrupt):
        interrupts.let_in(interrupt)


def test_without_a_block_waiting_is_a_call_like_any_other():
    with pytest.raises(KeyboardInterrupt):
        interrupts.let_in(interrupt)
    with interrupts.held():
        interrupts.let_in(lambda: None)


def test_other_threads_hold_nothing():
    inside, leave = threading.Event(), threading.Event()

    def work():
        with interrupts.held():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    assert not interrupts.put_off()
    leave.set()
    thread.join()
