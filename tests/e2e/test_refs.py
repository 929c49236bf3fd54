"""Values that stay in the driver, and the handles that the notebook holds."""

from __future__ import annotations

import pytest

from tests.notebook import task


@pytest.fixture(autouse=True)
def big(plain):
    """`big`, a ref to a list, and `lock`, one to something that nothing could send."""
    plain.task(
        "import threading\nbig = list(range(1000))\nlock = threading.Lock()", "-r big -r lock"
    )


def test_a_ref_says_what_it_holds(plain):
    text = plain.run("big").result
    assert text.startswith("<Ref list, ")
    assert "in plain" in text
    assert "[0, 1, 2, " in text
    html = plain.run("big").of("execute_result")[0]["data"]["text/html"]
    assert "<code>list</code>" in html


def test_get_brings_the_value(plain):
    assert plain.value("sum(big.get())") == 499500


def test_a_ref_as_an_input_is_the_very_object(plain):
    # A lock cannot be pickled: that it arrives proves that nothing was sent.
    cell = plain.task("lock.acquire()\nprint(id(lock))")
    again = plain.task("print(id(lock), lock.locked())\nlock.release()")
    assert again.stdout == cell.stdout.strip() + " True\n"


def test_a_ref_inside_a_collection_is_resolved_too(plain):
    assert plain.run("held = {'inner': [big]}").error is None
    assert plain.task("len(held['inner'][0])").result == "1000"


def test_what_cannot_be_fetched_says_so(plain):
    error = plain.fail("lock.get()")
    assert "cannot be pickled" in error.value
    assert plain.task("lock.locked()").result == "False"


def test_a_ref_is_fetched_for_another_environment(plain):
    plain.run('other = flyte.TaskEnvironment(name="other")')
    assert plain.task("sum(big)", environment="other").result == "499500"
    plain.run("%flyte down other")


def test_a_value_without_handles_is_let_go(plain):
    plain.task(
        """
        import builtins, weakref
        class Held: pass
        held = Held()
        builtins.watch = weakref.ref(held)
        """,
        "-r held",
    )
    ask = task("import builtins, gc\ngc.collect()\nbuiltins.watch() is None")
    assert plain.run(ask).result == "False"
    plain.run("del held")
    plain.until(lambda: plain.run(ask).result == "True", what="the value to be let go")


def test_a_ref_is_rebound_by_the_next_run(plain):
    plain.task("number = 1", "-r number")
    plain.task("number = number + 1", "-r number")
    assert plain.value("number.get()") == 2


def test_a_lost_ref_says_so(plain):
    plain.run("%flyte restart env")
    assert "(gone)" in plain.run("big").result
    error = plain.fail("big.get()")
    assert error.name == "RefLost"
    assert "Run the cell that made it again" in error.value
    assert plain.fail(task("len(big)")).name == "RefLost"
    # A name that holds a dead ref can be bound anew.
    plain.task("big = [1]", "-r big")
    assert plain.value("big.get()") == [1]
