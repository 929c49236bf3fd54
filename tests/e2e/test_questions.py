"""`input()` and `getpass` in a task: the page asks, and the task gets the answer."""

from __future__ import annotations

from tests.notebook import task


def test_input_is_asked_in_the_notebook(plain):
    cell = plain.task("name = input('who? ')\nprint('hi', name)", answers=["me"])
    assert cell.stdout == "hi me\n"
    assert cell.asked == [{"prompt": "who? ", "password": False}]


def test_a_password_is_hidden_and_shown_nowhere(plain):
    cell = plain.task(
        "from getpass import getpass\nprint(len(getpass('key: ')))", answers=["hunter2"]
    )
    assert cell.asked == [{"prompt": "key: ", "password": True}]
    assert cell.shown == "7\n"


def test_several_questions_in_turn(plain):
    cell = plain.task("print([input(str(n)) for n in range(3)])", answers=["a", "b", "c"])
    assert cell.stdout == "['a', 'b', 'c']\n"


def test_where_nobody_can_be_asked_the_task_is_told(plain):
    assert plain.fail(task("input()")).name == "StdinNotImplementedError"


def test_an_interrupt_ends_a_question(plain):
    cell = plain.submit(task("input('still there? ')"), answers=[""])
    cell.answers.clear()
    plain.until(lambda: cell.asked, what="the question")
    plain.interrupt()
    assert plain.wait(cell).error.name == "KeyboardInterrupt"
    assert plain.task("print(input())", answers=["fine"]).stdout == "fine\n"
