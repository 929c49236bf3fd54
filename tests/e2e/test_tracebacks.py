"""Errors of a task: the remote traceback, with the numbers of the notebook's own lines."""

from __future__ import annotations

from tests.notebook import task

FAILING = """\
x = 1
def f():
    raise ValueError("boom")

f()"""


def test_line_numbers_are_those_of_the_notebook_cell(plain):
    error = plain.fail(task(FAILING))
    assert (error.name, error.value) == ("ValueError", "boom")
    assert "----> 6 f()" in error.traceback
    assert '----> 4     raise ValueError("boom")' in error.traceback
    assert "flyte_jupyter" not in error.traceback


def test_the_cell_is_named_by_its_execution_count(plain):
    cell = plain.wait(plain.submit(task("1/0")))
    assert f"Cell In[{cell.reply['execution_count']}], line 2" in cell.error.traceback


def test_blank_lines_below_the_magic_count_and_those_above_do_not(plain):
    # As in any cell: IPython strips blank lines from the top of one before it counts.
    assert "line 1" in plain.fail("\n\n1/0").traceback
    error = plain.fail("\n\n%%flyte_task env\n\n\n1/0")
    assert "line 4" in error.traceback
    assert "----> 4 1/0" in error.traceback


def test_only_one_error_is_shown(plain):
    cell = plain.wait(plain.submit(task("1/0")))
    assert len(cell.of("error")) == 1
    assert cell.stderr == ""
    assert cell.reply["status"] == "error"


def test_the_last_traceback_can_be_shown_again(plain):
    plain.fail(task(FAILING))
    again = plain.wait(plain.submit("%tb"))
    assert '----> 4     raise ValueError("boom")' in again.shown


def test_an_error_can_be_caught(plain):
    plain.run(
        """
try:
    get_ipython().run_cell_magic("flyte_task", "env", "raise ValueError('caught')")
except ValueError as error:
    caught = str(error)
"""
    )
    assert plain.value("caught") == "caught"


def test_an_error_of_a_class_of_the_notebook_can_be_caught(plain):
    plain.run(
        """
class Mine(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code
"""
    )
    plain.run(
        """
try:
    get_ipython().run_cell_magic("flyte_task", "env", "raise Mine(7)")
except Mine as error:
    code = error.code
"""
    )
    assert plain.value("code") == 7


def test_an_error_that_cannot_be_sent_still_shows_itself(plain):
    error = plain.fail(
        task(
            """
            import threading
            class Locked(Exception):
                def __init__(self):
                    super().__init__("it is locked")
                    self.lock = threading.Lock()
            raise Locked
            """
        )
    )
    assert error.name == "RemoteError"
    assert error.value == "Locked: it is locked"
    assert "raise Locked" in error.traceback


def test_causes_are_shown(plain):
    error = plain.fail(
        task(
            """
            try:
                {}["key"]
            except KeyError as missing:
                raise RuntimeError("no such thing") from missing
            """
        )
    )
    assert "KeyError" in error.traceback
    assert "direct cause" in error.traceback


def test_a_function_of_another_cell_shows_its_own_lines(plain):
    made = plain.run("# a line\ndef breaks():\n    return [] [1]")
    error = plain.fail(task("breaks()"))
    assert error.name == "IndexError"
    assert "return [] [1]" in error.traceback
    assert f"Cell In[{made.reply['execution_count']}], line 3" in error.traceback


def test_exit_ends_the_cell_and_not_the_driver(plain):
    driver = plain.process("driver").pid
    error = plain.fail(task("import sys\nsys.exit(3)"))
    assert "sys.exit()" in error.value
    assert plain.task("import os\nprint(os.getpid())").stdout.strip() == str(driver)


def test_what_was_printed_before_the_error_is_shown_before_it(plain):
    cell = plain.wait(plain.submit(task("print('before')\n1/0")))
    assert cell.shown.startswith("before\n")
    assert cell.stdout == "before\n"


def test_an_output_that_cannot_be_sent_is_named(plain):
    error = plain.fail(task("import threading\nlock = threading.Lock()", "-o lock"))
    assert "`lock`" in error.value
    assert "lock" in error.value
    assert "cannot be pickled" in error.value


def test_a_name_that_was_not_bound_after_all_is_named(plain):
    error = plain.fail(task("import os\nif os.getpid() < 0:\n    never = 1", "-o never"))
    assert "without binding `never`" in error.value


def test_a_syntax_error_found_at_run_time(plain):
    assert plain.fail(task("exec('def f(:')")).name == "SyntaxError"
