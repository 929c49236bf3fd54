"""What a task cell takes along, and what the notebook says about it."""

from __future__ import annotations

import pytest

from tests.notebook import task


def test_names_that_the_cell_reads_travel(plain):
    plain.run(
        "k = 3\ndef helper(x): return x + k\nclass Pair:\n    def __init__(self, a): self.a = a"
    )
    assert plain.task("[helper(n) for n in range(2)], Pair(4).a").result == "([3, 4], 4)"


def test_only_named_inputs_travel(plain):
    plain.run("one, two = 1, 2")
    assert plain.task("one", "-i one").result == "1"
    assert plain.fail(task("one + two", "-i one")).name == "NameError"


def test_names_in_strings_travel_and_others_that_are_asked_for(plain):
    plain.run("import pandas as pd\nlimit, more = 2, 3\nframe = pd.DataFrame({'a': [1, 2, 3]})")
    assert plain.task("len(frame.query('a > @limit'))").result == "1"
    assert plain.task("limit + globals()['more']", "--also more").result == "5"
    assert "--also nothing: the notebook has no" in plain.fail(task("1", "--also nothing")).value


def test_a_change_of_an_input_stays_in_the_task(plain):
    plain.run("rows = [1]")
    assert plain.task("rows.append(2)\nrows").result == "[1, 2]"
    assert plain.value("rows") == [1]


def test_a_redefined_function_is_fresh(plain):
    plain.run("def version(): return 1")
    assert plain.task("version()").result == "1"
    plain.run("def version(): return 2")
    assert plain.task("version()").result == "2"


def test_numpy_arrays_go_both_ways_and_stay_writable(plain):
    plain.run("import numpy as np\nsent = np.arange(500_000)")
    plain.task("sent += 1\nback = sent * 2", "-o back")
    assert plain.value("int(sent[0]), int(back[-1]), back.flags.writeable") == (0, 1_000_000, True)
    plain.run("back += 1")


def test_what_is_left_from_before_and_bound_anew_does_not_stop_a_cell(plain):
    plain.run("import sqlite3, threading\nother = threading.Lock()")
    plain.run("conn = sqlite3.connect(':memory:')")
    body = "for path in [':memory:']:\n    conn = sqlite3.connect(path)\nconn.close()\ndone = 1"
    cell = plain.task(body, "-o done")
    assert "`conn` (Connection) cannot be sent and was left out: the cell binds it." in cell.shown
    assert "cannot be pickled" in plain.fail(task(body, "-i conn,sqlite3")).value
    assert "`other` (_thread.lock) cannot be pickled" in plain.fail(task("other")).value
    plain.run("conn.close()")


def test_a_mapped_file_is_written_to(plain):
    plain.run("""if True:
        import tempfile, numpy as np
        data = tempfile.NamedTemporaryFile()
        mapped = np.memmap(data.name, "f8", "w+", shape=(100_000,))""")
    plain.task("mapped[:3] = 1\nmapped.flush()")
    assert plain.value("float(mapped.sum())") == 3.0
    plain.run("del mapped\ndata.close()")


def test_a_missing_name_of_a_task_cell_is_explained(plain):
    plain.task("kept_there = 1")
    cell = plain.wait(plain.submit("kept_there"))
    assert cell.error.name == "NameError"
    assert "`-o kept_there`" in cell.stderr
    assert "`-r kept_there`" in cell.stderr


def test_the_hint_goes_when_the_name_is_bound(plain):
    plain.task("later = 1")
    plain.run("later = 2")
    plain.run("del later")
    cell = plain.wait(plain.submit("later"))
    assert cell.error.name == "NameError"
    assert cell.stderr == ""


def test_a_large_input_is_named_with_its_size(plain):
    plain.run("import numpy as np\nlarge = np.zeros(64 * 2**20, dtype='uint8')")
    cell = plain.task("large.nbytes")
    assert "`large`" in cell.stderr
    assert "64" in cell.stderr
    assert "MiB" in cell.stderr
    assert plain.task("1").stderr == ""


def test_what_looks_like_a_secret_is_refused_without_its_value(plain):
    plain.run("api_key = 'sk-very-secret'")
    cell = plain.wait(plain.submit(task("len(api_key)")))
    assert cell.error.name == "CaptureError"
    assert "`api_key` was not sent" in cell.error.value
    assert "sk-very-secret" not in cell.shown
    assert plain.task("len(api_key)", "-i api_key").result == "14"


def test_what_would_travel_is_shown_and_nothing_runs(plain):
    plain.run("k = 3\ndef helper(x): return x + k")
    before = plain.run("%flyte runs").result
    table = plain.task("helper(k)", "--capture").result
    assert [line.split()[0] for line in table.splitlines()] == ["name", "helper", "k"]
    assert "function by value" in table
    assert plain.run("%flyte runs").result == before


def test_an_empty_capture_says_so(plain):
    assert plain.task("1", "--capture").result == "The cell takes nothing along."


def test_what_cannot_be_pickled_is_named_before_a_cluster_starts(plain):
    plain.run(
        'import threading\nlock = threading.Lock()\nidle = flyte.TaskEnvironment(name="idle")'
    )
    cell = plain.wait(plain.submit(task("lock", environment="idle")))
    assert "`lock` (_thread.lock) cannot be pickled" in cell.error.value
    assert plain.run("%flyte status idle").result == "idle is declared; nothing of it runs."


@pytest.mark.parametrize("value", ["socket.socket()", "(n for n in [1])", "[threading.Lock()]"])
def test_other_values_that_cannot_travel(plain, value):
    plain.run(f"import socket, threading\nbad = {value}")
    error = plain.fail(task("bad"))
    plain.run("del bad")
    assert "`bad`" in error.value
    assert "cannot be pickled" in error.value


def test_the_notebooks_own_modules_are_imported_there(plain):
    plain.run("import math, os.path as path\nfrom collections import Counter")
    cell = plain.task("math.floor(2.5), path.basename('a/b'), Counter('aa')['a']")
    assert cell.result == "(2, 'b', 2)"


def test_ipythons_history_does_not_travel(plain):
    plain.run("[1, 2, 3]")
    assert plain.fail(task("_")).name == "NameError" or plain.task("_").result in ("", "''")
