"""An interrupt strikes the request that it names."""

from __future__ import annotations

import pytest

from flyte_jupyter.driver.requests import Interrupts


class Kernel:
    """Counts the signals that it is asked for."""

    def __init__(self):
        self.sent = 0

    def _send_interrupt_children(self):
        self.sent += 1


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def interrupts(kernel):
    return Interrupts(kernel)


def test_one_that_runs_is_signalled(kernel, interrupts):
    interrupts.begin("first")
    interrupts.interrupt("first")
    assert kernel.sent == 1
    interrupts.end()
    interrupts.begin("second")


def test_one_that_comes_first_strikes_when_its_task_begins(kernel, interrupts):
    interrupts.begin("first")
    interrupts.interrupt("second")
    interrupts.end()
    with pytest.raises(KeyboardInterrupt):
        interrupts.begin("second")
    assert kernel.sent == 0


def test_one_that_comes_too_late_strikes_nobody(kernel, interrupts):
    interrupts.begin("first")
    interrupts.end()
    interrupts.interrupt("first")
    interrupts.begin("second")
    assert kernel.sent == 0
