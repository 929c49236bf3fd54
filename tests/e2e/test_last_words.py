"""What C code writes just before it ends the driver says why, and is not lost."""

from __future__ import annotations

import re

import pytest

from tests.notebook import task

ASSERTION = """
import ctypes
ctypes.CDLL(None)["__assert_fail"](b"rows > 0", b"table.cc", 7, b"read")
"""
WAYS = {
    "with Python's lock": "import os\nos.write(2, b'rows > 0\\n'); os.abort()",
    "without a line's end": "import os\nos.write(2, b'rows > 0'); os.abort()",
    "on standard output": "import os\nos.write(1, b'rows > 0'); os.abort()",
    "an assertion of C": ASSERTION,
    "killed": "import os, signal\nos.write(2, b'rows > 0'); os.kill(os.getpid(), signal.SIGKILL)",
    "left": "import os\nos.write(2, b'rows > 0'); os._exit(3)",
}


@pytest.mark.parametrize("body", WAYS.values(), ids=WAYS)
def test_the_last_words_of_c_code_are_in_the_logs(plain, body):
    error = plain.fail(task("print('before', flush=True)\n" + body))
    assert error.name == "DriverLost"
    log = plain.run("%flyte logs").result.splitlines()
    assert log[0] == "before"
    assert "rows > 0" in log[1]
    assert "Fatal Python error" not in log
    plain.task("1")
    # In the log of all drivers the last section but one is of the one that died here.
    section = plain.run("%flyte logs plain").result.split("--- driver, start")[-2]
    before, crash, stack = section.partition("Fatal Python error: Aborted")
    assert "rows > 0" in before
    assert re.search("driver.log: .*rows > 0", error.value)
    assert bool(crash) == ("abort" in body or body == ASSERTION)
    assert not crash or "in run_code" in stack


def test_they_are_never_lost(plain):
    """The reader of the pipe sometimes has them in its hands, and sometimes not yet."""
    for number in range(8):
        plain.fail(task(f"import os\nos.write(2, b'reason {number}'); os.abort()"))
        assert plain.run("%flyte logs").result == f"reason {number}"


def test_what_is_written_to_a_descriptor_is_the_cells_that_writes_it(plain):
    for number in range(20):
        cell = plain.task(f"import os\nfor fd in (1, 2): _ = os.write(fd, b'of {number}\\n')")
        assert (cell.stdout, cell.stderr) == (f"of {number}\n",) * 2


def test_descriptors_and_streams_keep_their_order_where_one_waits_for_the_other(plain):
    body = """
    import os, subprocess, time
    for n in range(3):
        print("python", n, flush=True)
        subprocess.run(["sh", "-c", f"echo process {n}; echo to its file {n} > /dev/stdout"])
        time.sleep(0.05)
    """
    cell = plain.task(body)
    lines = [f"{who} {n}" for n in range(3) for who in ("python", "process", "to its file")]
    assert cell.stdout.splitlines() == lines
    assert plain.run("%flyte logs").result.splitlines() == lines


def test_text_is_not_torn_where_a_write_ends(plain):
    cell = plain.task("import os, time\nfor b in 'größer\\n'.encode(): os.write(1, bytes([b]))")
    assert cell.stdout == "größer\n"


def test_c_code_that_writes_much_and_keeps_pythons_lock_does_not_wait_for_ever(plain):
    body = (
        "import ctypes\ntext = b'x' * 299_999 + b'\\n'\nctypes.PyDLL(None).write(1, text, 300_000)"
    )
    cell = plain.task(f"{body};")
    assert cell.stdout == "x" * 299_999 + "\n"


def test_what_the_parent_has_not_sent_yet_is_not_sent_by_its_forked_children(plain):
    body = """
    import os, sys
    print("once")
    for _ in range(5):
        if not os.fork():
            sys.stdout.flush()
            os._exit(0)
        os.wait()
    """
    assert plain.task(body).stdout == "once\n"


def test_what_forked_children_print_at_their_end_belongs_to_their_run(plain):
    body = """
    import multiprocessing
    make = multiprocessing.get_context("fork").Process
    children = [make(target=print, args=(f"child {number}",)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    """
    for _ in range(5):
        cell = plain.task(body)
        for text in (cell.stdout, plain.run("%flyte logs").result):
            assert sorted(text.splitlines()) == [f"child {number}" for number in range(4)]
