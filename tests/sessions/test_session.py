"""The session as a script uses it."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import subprocess
import sys
import threading

import flyte
import numpy as np
import pytest

from flyte_jupyter import (
    CaptureError,
    CellTask,
    ClusterError,
    DriverLost,
    EnvironmentNotFound,
    RefLost,
    RemoteError,
    TaskTimeout,
    UsageError,
)
from tests import leaks


def run(session, code, sink=None, **task):
    return session.wait(session.submit("plain", CellTask(code, **task), sink=sink))


def test_one_output_is_the_result_and_several_are_a_dict(session):
    assert run(session, "y = x + 1", values={"x": 41}, returns=("y",)) == 42
    assert run(session, "a, b = 1, 2", returns=("a", "b")) == {"a": 1, "b": 2}
    assert run(session, "a = 1") is None


def test_each_task_starts_from_its_inputs_alone(session):
    run(session, "left_behind = 1")
    with pytest.raises(NameError, match="left_behind"):
        run(session, "left_behind")
    assert run(session, "names = sorted(n for n in dir() if n[0] != '_')", returns=("names",)) == [
        *sorted({"In", "Out", "exit", "get_ipython", "open", "quit"})
    ]


def test_output_arrives_in_order_and_the_last_expression_is_shown(session, sink):
    code = "import sys\nfor i in range(3):\n    print(i)\n    print(-i, file=sys.stderr)\n6 * 7"
    run(session, code, sink)
    assert "".join(f"{name[3]}:{text}" for name, text in sink.streams).split() == [
        line for i in range(3) for line in (f"o:{i}", f"e:{-i}")
    ]
    assert [data["text/plain"] for data in sink.shown] == ["42"]


def test_an_array_comes_back_writable_and_is_a_copy(session):
    array = np.arange(200_000.0)
    back = run(session, "x *= 2\ny = x", values={"x": array}, returns=("y",))
    assert array[1] == 1.0
    assert back[1] == 2.0
    back[0] = 7


def test_an_error_of_the_task_is_raised_here_with_the_remote_traceback(session):
    with pytest.raises(ZeroDivisionError) as caught:
        run(session, "def f():\n    return 1 / 0\nf()", line=3, count=9)
    text = "\n".join(caught.value._render_traceback_())
    assert "In[9]" in text
    assert "line 6" in text


def test_the_run_tells_its_story(session):
    task = CellTask("print('a line')", name="story")
    done = session.submit("plain", task)
    assert done.id.startswith("story-")
    session.wait(done)
    assert (done.state, done.attempts, done.done, done.exception()) == ("succeeded", 1, True, None)
    assert done.log() == "a line\n"
    assert done.log(last=5) == "line\n"
    assert done.seconds > 0
    assert done.id in [record.id for record in session.runs]
    assert "succeeded" in repr(done)
    assert "plain_env" in done._repr_html_()
    done.cancel()
    assert done.state == "succeeded"


async def test_a_run_can_be_awaited_on_any_loop(session):
    first = session.submit("plain", CellTask("x = 1", returns=("x",)))
    second = session.submit("plain", CellTask("x = 1 / 0"))
    assert await first == 1
    with pytest.raises(ZeroDivisionError):
        await second
    assert second.state == "failed"
    assert isinstance(second.exception(), ZeroDivisionError)


def test_a_cluster_that_two_ask_for_at_once_is_started_once(make_session):
    session = make_session()
    provisioner, environment = session._clusters, session.environment("plain")
    first, second = provisioner.new(environment), provisioner.new(environment)
    starting = [provisioner.start(each) for each in (first, second)]
    assert [session._loop.run(each) for each in starting] == [first, first]
    assert second.state == "declared"
    assert run(session, "x = 1", returns=("x",)) == 1


def test_what_was_asked_for_as_the_runs_does_not_change_with_them(session):
    before = session.runs
    count = len(before)
    run(session, "x = 1")
    assert len(before) == count
    assert len(session.runs) == count + 1


def test_a_name_that_two_environments_have_is_refused(make_session):
    session = make_session()
    session.namespace["other"] = flyte.TaskEnvironment(name="plain_env", env_vars={"A": "1"})
    for call in (lambda: session.up("plain"), lambda: run(session, "x = 1")):
        with pytest.raises(UsageError, match="'plain_env': they are held by plain and other"):
            call()
    assert not session.clusters
    session.namespace["plain"] = session.namespace.pop("other")  # as a cell that is run again does
    assert run(session, "import os\nx = os.environ['A']", returns=("x",)) == "1"


def test_a_run_that_is_stopped_while_it_connects_leaves_the_connection_to_others(make_session):
    session = make_session()
    cluster = session.ready(session.up("plain"))

    async def connect():
        first, second = (asyncio.ensure_future(cluster.client()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    client = session._loop.run(connect())
    assert run(session, "x = 1", returns=("x",)) == 1
    assert session._loop.run(cluster.client()) is client


def test_runs_of_one_environment_take_turns(session):
    code = "import os, pathlib\np = pathlib.Path(os.devnull)\nimport time\nt0 = time.monotonic()\n"
    code += "time.sleep(0.05)\nspan = (t0, time.monotonic())"
    runs = [session.submit("plain", CellTask(code, returns=("span",))) for _ in range(4)]
    spans = [each.result(60) for each in runs]
    assert spans == sorted(spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_waiting_for_a_result_may_end_before_the_run_does(session):
    slow = session.submit("plain", CellTask("import time; time.sleep(600)"))
    with pytest.raises(TimeoutError):
        slow.result(0.2)
    assert not slow.done
    slow.cancel()
    with pytest.raises(KeyboardInterrupt):
        slow.result(60)
    assert slow.state == "cancelled"


def test_a_run_that_waits_for_its_turn_can_be_cancelled(session):
    slow = session.submit("plain", CellTask("import time; time.sleep(600)"))
    next_one = session.submit("plain", CellTask("x = 1"))
    next_one.cancel()
    with pytest.raises(KeyboardInterrupt, match="stopped before it ran"):
        next_one.result(60)
    assert next_one.state == "cancelled"
    assert not slow.done
    slow.cancel()
    with pytest.raises(KeyboardInterrupt):
        slow.result(60)


@pytest.mark.parametrize("wait", ["time.sleep(600)", "await asyncio.sleep(600)"])
def test_an_interrupt_is_heard_that_another_thread_was_given(session, wait):
    # As one is that comes between the interpreter's last look for signals and the call that waits.
    code = "import asyncio, signal, threading, time\n"
    code += "def interrupt():\n"
    code += "    time.sleep(0.2)\n"
    code += "    signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"
    code += f"threading.Thread(target=interrupt).start()\n{wait}"
    with pytest.raises(KeyboardInterrupt):
        session.submit("plain", CellTask(code)).result(60)
    assert run(session, "x = 1", returns=("x",)) == 1


def test_an_awaiting_task_can_be_cancelled(session, sink):
    code = "import asyncio\nprint('here', flush=True)\nawait asyncio.sleep(600)"
    slow = session.submit("plain", CellTask(code), sink=sink)
    assert leaks.until(lambda: sink.text)
    slow.cancel()
    with pytest.raises(KeyboardInterrupt):
        slow.result(60)
    assert run(session, "x = 1", returns=("x",)) == 1


def test_a_time_limit_ends_a_run(session):
    with pytest.raises(TaskTimeout, match=r"ran longer than its 0\.3 s"):
        run(session, "import time; time.sleep(600)", timeout=0.3)


def test_a_failed_run_is_tried_again(session, tmp_path, sink):
    code = (
        "import pathlib\npath = pathlib.Path(where)\n"
        "tried = int(path.read_text()) if path.exists() else 0\n"
        "path.write_text(str(tried + 1))\nassert tried == 2, tried"
    )
    where = str(tmp_path / "tried")
    again = session.submit("plain", CellTask(code, values={"where": where}, retries=2), sink=sink)
    session.wait(again)
    assert again.attempts == 3
    assert "failed; 1 more attempt." in sink.text


def test_each_attempt_may_wait_as_long(session, sink):
    first = session.submit("plain", CellTask("import time; time.sleep(1)"))
    patient = CellTask("x = 1", returns=("x",), queue_timeout=0.3, retries=100)
    assert session.wait(session.submit("plain", patient, sink=sink)) == 1
    assert "waited longer than its 0.3 s; 99 more attempts." in sink.text
    session.wait(first)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import sys\nsys.exit(3)", RemoteError),
        ("raise GeneratorExit", GeneratorExit),
        ("class Mine(BaseException): pass\nraise Mine('own')", BaseException),
        (
            "class Mine(Exception):\n    def __reduce__(self): raise TypeError\nraise Mine",
            RemoteError,
        ),
    ],
)
def test_whatever_ends_a_task_ends_its_run(session, code, kind):
    odd = session.submit("plain", CellTask(code))
    with pytest.raises(kind):
        odd.result(30)
    assert odd.state == "failed"


def test_an_output_that_is_not_bound_is_named(session):
    with pytest.raises(NameError, match="without binding `absent`"):
        run(session, "x = 1", returns=("absent",))


def test_an_input_that_cannot_be_pickled_is_named_before_anything_starts(make_session):
    session = make_session()
    with pytest.raises(CaptureError, match="lock"):
        run(session, "1", values={"lock": threading.Lock()})
    assert session.clusters == {}


def test_an_output_that_cannot_be_pickled_is_named(session):
    with pytest.raises(CaptureError, match="lock"):
        run(session, "import threading\nlock = threading.Lock()", returns=("lock",))


def test_questions_are_answered_on_the_waiting_thread(session):
    asked = []

    def ask(prompt, password):
        asked.append((prompt, password, threading.current_thread()))
        return "Ada"

    named = session.submit("plain", CellTask("x = input('who? ')", returns=("x",)), ask=ask)
    assert session.wait(named) == "Ada"
    assert asked == [("who? ", False, threading.current_thread())]


def test_a_task_that_asks_where_nobody_answers_is_told_so(session):
    with pytest.raises(Exception, match="input") as caught:
        run(session, "input('who? ')")
    assert "StdinNotImplementedError" in type(caught.value).__name__ + str(caught.value)


# -- refs -----------------------------------------------------------------------------------------


def test_a_ref_names_a_value_that_stays_in_its_driver(session):
    ref = run(session, "big = list(range(1000))", keeps=("big",))
    assert (ref.type, ref.alive, ref.environment) == ("list", True, "plain_env")
    assert repr(ref).startswith("<Ref list, ")
    assert run(session, "n = len(big)", values={"big": ref}, returns=("n",)) == 1000
    assert ref.get() == list(range(1000))
    ident = run(
        session, "same = id(big) == id(other)", values={"big": ref, "other": ref}, returns=("same",)
    )
    assert ident is True


def test_a_ref_inside_a_container_is_resolved_too(session):
    ref = run(session, "x = {'deep': 1}", keeps=("x",))
    assert run(session, "y = box[0]['deep']", values={"box": [ref]}, returns=("y",)) == 1


def test_a_ref_cannot_be_pickled_for_anybody_else(session):
    import pickle

    ref = run(session, "x = 1", keeps=("x",))
    with pytest.raises(CaptureError, match="means something only there"):
        pickle.dumps(ref)


def test_a_value_is_dropped_with_its_last_handle(session):
    ref = run(session, "class Told: pass\nx = Told()", keeps=("x",))
    code = f"from flyte_jupyter.driver import refs\nthere = {ref.id!r} in refs._store"
    assert run(session, code, returns=("there",)) is True
    del ref
    assert run(session, code, returns=("there",)) is False


def test_a_ref_of_another_environment_is_fetched_and_sent(make_session):
    session = make_session()
    session.declare(flyte.TaskEnvironment(name="other_env"))
    ref = run(session, "x = [1, 2]", keeps=("x",))
    task = CellTask("y = sum(x)", values={"x": ref}, returns=("y",))
    assert session.wait(session.submit("other_env", task)) == 3


def test_a_ref_is_lost_with_its_driver(make_session):
    session = make_session()
    ref = run(session, "x = 1", keeps=("x",))
    before = session.cluster("plain").driver
    session.restart("plain")
    assert session.cluster("plain").driver != before
    assert not ref.alive
    assert "(gone)" in repr(ref)
    assert "gone" in ref._repr_html_()
    with pytest.raises(RefLost, match="the driver of plain_env that held it has ended"):
        ref.get()
    with pytest.raises(RefLost):
        run(session, "x", values={"x": ref})
    assert run(session, "x = 2", returns=("x",)) == 2


# -- life -----------------------------------------------------------------------------------------


def test_a_driver_that_crashes_fails_its_run_and_is_there_again(make_session):
    session = make_session()
    with pytest.raises(DriverLost, match="exit code 7"):
        run(session, "import os\nos._exit(7)")
    assert run(session, "x = 1", returns=("x",)) == 1


def test_a_task_that_ignores_interrupts_has_its_driver_replaced(make_session):
    session = make_session(interrupt_grace=0.3)
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += "print('deaf', flush=True)\nwhile True: time.sleep(600)"
    deaf = session.submit("plain", CellTask(code))
    assert leaks.until(lambda: deaf.state == "running")
    deaf.cancel()
    with pytest.raises((DriverLost, KeyboardInterrupt)):
        deaf.result(60)
    assert run(session, "x = 1", returns=("x",)) == 1


def test_close_takes_everything_down_and_the_session_can_be_used_again(make_session):
    session = make_session()
    session.close()
    assert run(session, "x = 1", returns=("x",)) == 1
    cluster = session.cluster("plain")
    folder = cluster.folder
    session.close()
    session.close()
    assert not folder.exists()
    with pytest.raises(ClusterError, match="plain_env has no cluster"):
        session.cluster("plain")
    assert run(session, "x = 2", returns=("x",)) == 2
    assert session.down() == ["plain_env"]
    assert session.down() == []


def test_a_run_under_way_fails_when_its_cluster_is_taken_down(make_session):
    session = make_session()
    slow = session.submit("plain", CellTask("import time; time.sleep(600)"))
    assert leaks.until(lambda: slow.state == "running")
    session.down("plain")
    with pytest.raises(ClusterError, match="taken down"):
        slow.result(30)


def test_a_script_that_forgets_to_close_leaves_nothing():
    code = (
        "import flyte, flyte_jupyter as fj\n"
        "s = fj.session()\n"
        "env = s.declare(flyte.TaskEnvironment(name='script'))\n"
        "run = s.submit('script', fj.CellTask('x = 1', returns=('x',)))\n"
        "print(run.result(60), s.cluster('script').folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 ")
    assert done.stderr == ""


def test_a_cluster_that_fails_is_started_anew_by_the_next_run(make_session, tmp_path):
    (tmp_path / "fj_flaky_preload.py").write_text("raise RuntimeError('not today')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        session = make_session(preload=["fj_flaky_preload"], start_method="fork")
        with pytest.raises(ClusterError, match="not today"):
            run(session, "x = 1")
        assert session.clusters["plain_env"].state == "failed"
        assert session.down() == []
        (tmp_path / "fj_flaky_preload.py").write_text("")
        assert run(session, "x = 1", returns=("x",)) == 1
    finally:
        sys.path.remove(str(tmp_path))


def test_a_cluster_that_takes_too_long_is_given_up(make_session):
    session = make_session(start_timeout=0.01)
    with pytest.raises(ClusterError, match=r"did not start within 0\.01 s"):
        run(session, "x = 1")
    assert session.clusters["plain_env"].state in ("stopped", "failed")


def test_an_environment_declared_anew_starts_its_cluster_anew(make_session):
    session = make_session()
    first = session.ready(session.up("plain"))
    assert session.up("plain") is first, "nothing has changed"
    session.namespace["plain"] = flyte.TaskEnvironment(name="plain_env", env_vars={"A": "1"})
    assert run(session, "import os\nx = os.environ['A']", returns=("x",)) == "1"
    assert session.cluster("plain") is not first
    assert session.said == ["plain_env is declared differently now: its cluster starts anew."]


def test_a_plain_cluster_has_nothing_to_scale(session):
    with pytest.raises(ClusterError, match="the plain engine has nothing to scale"):
        session.scale("plain", 3)
    cluster = session.cluster("plain")
    assert cluster.summary() == "a driver"
    assert repr(cluster) == "<Cluster plain_env: plain, ready, a driver>"
    assert session.log_of(cluster, "driver", 10) == session.log_of(cluster, "driver", 100)[-10:]


def test_an_environment_that_is_not_there_is_not_started(session):
    with pytest.raises(EnvironmentNotFound, match="Did you mean 'plain'"):
        session.submit("plian", CellTask("x = 1"))
    assert "1 clusters" in repr(session)


def test_a_forked_child_of_the_notebook_closes_nothing(session):
    import os

    pid = os.fork()
    if not pid:
        session.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert run(session, "x = 1", returns=("x",)) == 1


def test_sizes_say_what_would_be_sent(session):
    ref = run(session, "x = 1", keeps=("x",))
    sizes = session.sizes({"array": np.zeros(100_000), "word": "hello", "ref": ref})
    assert sizes["array"] >= 800_000
    assert sizes["word"] < 100
    assert sizes.get("ref", 0) < 100


def test_the_driver_runs_in_the_notebooks_folder_with_its_path(session):
    code = "import os, sys\nx = (os.getcwd(), sys.path)"
    assert run(session, code, returns=("x",))[0] == __import__("os").getcwd()
    assert builtins.str is str
    assert asyncio.iscoroutinefunction(session.submit) is False
