"""What a cell that failed has bound comes back all the same."""

from __future__ import annotations

import textwrap

from tests.notebook import task


def test_names_that_a_failed_cell_has_bound_are_there_as_after_any_cell(plain):
    plain.run("untouched = 'before'")
    body = "model, log = [1], [2]\nuntouched\nplot(modle)\nlate = 1"
    assert plain.fail(task(body, "-o model,late,untouched -r log")).name == "NameError"
    assert plain.value("model, untouched, log.get()") == ([1], "before", [2])
    assert plain.fail("late").name == "NameError"


def test_an_interrupt_leaves_what_there_is_so_far(plain):
    body = """
        import time
        model = []
        while True:
            model.append(1)
            print("on")
            time.sleep(1)"""
    cell = plain.submit(task(textwrap.dedent(body), "-o model"))
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "KeyboardInterrupt"
    assert plain.value("set(model)") == {1}


def test_one_value_that_cannot_be_pickled_costs_no_other_and_no_second_attempt(plain, tmp_path):
    count = tmp_path / "count"
    body = f"open({str(count)!r}, 'a').write('.')\nmodel, kept, log = [1], [2], (x for x in [3])"
    cell = plain.wait(plain.submit(task(body, "-o model,log -r kept --retries 2")))
    assert "`log` (generator) cannot be pickled" in cell.error.value
    assert "`log`: kept in the driver, and here as a ref." in cell.stderr
    assert count.read_text() == "."
    assert plain.value("model, kept.get()") == ([1], [2])
    assert plain.task("next(log)").result == "3"


_ONLY_THERE = """
import sys, types
there = types.ModuleType("only_there")
sys.modules["only_there"] = there
class Model:
    pass
Model.__module__ = "only_there"
there.Model = Model
"""


def test_a_value_that_cannot_be_rebuilt_here_stays_and_the_others_come(plain):
    body = _ONLY_THERE + "before, model, after, kept = [1], [Model()], [2] * 200_000, 3"
    cell = plain.wait(plain.submit(task(body, "-o before,model,after -r kept --retries 2")))
    assert "`model` cannot be rebuilt in the process that received it" in cell.error.value
    assert "only_there" in cell.error.value
    assert cell.stderr.strip() == "`model`: kept in the driver, and here as a ref."
    assert plain.value("before, len(after), kept.get(), type(model).__name__") == (
        [1],
        200_000,
        3,
        "Ref",
    )
    assert plain.task("type(model[0]).__name__").result == "'Model'"


def test_so_it_is_with_what_a_failed_cell_has_bound(plain):
    body = _ONLY_THERE + "before, model, after = [1], [Model()], [2]\n1 / 0"
    cell = plain.wait(plain.submit(task(body, "-o before,model,after")))
    assert cell.error.name == "ZeroDivisionError"
    assert plain.value("before, after, type(model).__name__") == ([1], [2], "Ref")


def test_what_is_large_waits_in_the_driver(plain):
    body = "import numpy as np\nlarge = np.ones(9_000_000)\n1 / 0"
    assert plain.fail(task(body, "-o large")).name == "ZeroDivisionError"
    assert plain.value("type(large).__name__, float(large.get().sum())") == ("Ref", 9e6)


def test_a_limit_and_a_later_attempt_leave_the_last_values(plain):
    body = "import os, time\ntried = globals().get('tried', 0) + 1\ntime.sleep(60)"
    assert plain.fail(task(body, "-o tried --timeout 0.5")).name == "TaskTimeout"
    assert plain.value("tried") == 1


def test_the_driver_holds_nothing_that_has_been_received(plain, tmp_path):
    body = f"""
        import os, pathlib
        class Noted:
            def __del__(self):
                (pathlib.Path({str(tmp_path)!r}) / f"{{os.getpid()}}").touch()
        noted = Noted()
        os.getpid()"""
    driver = plain.task(textwrap.dedent(body), "-o noted").result
    plain.until((tmp_path / driver).exists, what="the value's end in the driver")
