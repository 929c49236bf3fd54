"""One task in the driver's shell: its namespace, its interrupts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading

import pytest

from flyte_jupyter.driver.shell import Cell, DriverShell, Interruptible, fresh_namespace, run_cell


@pytest.fixture
def shell(monkeypatch):
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    main, hook = sys.modules["__main__"], sys.displayhook
    made = DriverShell.instance(config=config, user_ns={})
    monkeypatch.setattr(made.displayhook, "session", None, raising=False)
    yield made
    DriverShell.clear_instance()
    made.history_manager.end_session()
    made.restore_sys_module_state()
    sys.modules["__main__"], sys.displayhook = main, hook


async def execute(shell, code, line=0, **inputs):
    with fresh_namespace(shell, inputs) as namespace:
        error = await run_cell(shell, Cell(code, 7, line, inputs))
        return error, dict(namespace)


async def test_a_cell_sees_its_inputs_and_nothing_of_the_one_before(shell):
    error, namespace = await execute(shell, "y = x + 1", x=1)
    assert (error, namespace["y"]) == (None, 2)
    error, _ = await execute(shell, "y")
    assert isinstance(error, NameError)


async def test_the_namespace_is_the_real_main_meanwhile(shell):
    before = sys.modules["__main__"]
    code = "import sys\nsame = sys.modules['__main__'].__dict__ is globals()\nname = __name__"
    _, namespace = await execute(shell, code)
    assert (namespace["same"], namespace["name"]) == (True, "__main__")
    assert sys.modules["__main__"] is before


async def test_the_namespace_is_put_back_after_an_error(shell):
    before = sys.modules["__main__"]
    with pytest.raises(LookupError), fresh_namespace(shell, {}):
        raise LookupError
    assert sys.modules["__main__"] is before
    assert shell.user_module is not None


async def test_a_cell_may_await(shell):
    error, namespace = await execute(shell, "import asyncio\nx = await asyncio.sleep(0, 5)")
    assert (error, namespace["x"]) == (None, 5)


async def test_lines_are_those_of_the_notebooks_cell(shell):
    error, _ = await execute(shell, "1 / 0", line=3)
    assert isinstance(error, ZeroDivisionError)
    text = "\n".join(shell.remote_traceback)
    assert re.search(r"\bline 4\b|:4\b", re.sub(r"\x1b\[[0-9;]*m", "", text)), text


async def test_a_syntax_error_is_the_cells_error(shell):
    error, _ = await execute(shell, "def broken(:", line=1)
    assert isinstance(error, SyntaxError)
    assert "broken" in "\n".join(shell.remote_traceback)


async def test_magics_of_ipython_work_in_a_cell(shell):
    error, namespace = await execute(
        shell, "%env FJ_TEST_X=1\nimport os\nx = os.environ['FJ_TEST_X']"
    )
    os.environ.pop("FJ_TEST_X", None)
    assert (error, namespace["x"]) == (None, "1")


def interrupt_when(event):
    def wait():
        event.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


async def test_an_interrupt_ends_code_that_runs(shell):
    begun = threading.Event()
    interrupt_when(begun)
    interruptible = Interruptible()
    code = (
        "import time\nbegun.set()\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    )
    error, _ = await interruptible.run(execute(shell, code, begun=begun))
    assert isinstance(error, KeyboardInterrupt)
    assert interruptible.interrupted


async def test_an_interrupt_ends_what_awaits():
    before = signal.getsignal(signal.SIGINT)
    begun, cleaned = threading.Event(), []
    interrupt_when(begun)

    async def wait():
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        await Interruptible().run(wait())
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGINT) is before


async def test_a_cell_can_clean_up_when_it_is_interrupted(shell):
    begun = threading.Event()
    interrupt_when(begun)
    code = (
        "import time\ntry:\n    begun.set()\n    while True: time.sleep(0.01)\n"
        "except KeyboardInterrupt:\n    cleaned = True"
    )
    error, namespace = await Interruptible().run(execute(shell, code, begun=begun))
    assert error is None
    assert namespace["cleaned"]


async def test_what_is_cancelled_for_another_reason_is_no_interrupt():
    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Interruptible().run(cancelled())
