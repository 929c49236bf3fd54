"""Runs that would never end by themselves on a Ray cluster, and what is left of those stopped."""

from __future__ import annotations

import pytest

from tests.notebook import Notebook, notebook, task

pytest.importorskip("ray")

DECLARE = """\
import flyte
import flyte_jupyter
from flyteplugins.ray import RayJobConfig, WorkerNodeConfig
env = flyte.TaskEnvironment(name="ray_env", plugin_config=RayJobConfig(worker_node_config=[
    WorkerNodeConfig(group_name="one", replicas=1, ray_start_params={"num-cpus": "2"})]))
@env.task
def work_for_ever():
    import ray, time
    print("in")
    ray.get([ray.remote(lambda: time.sleep(3600)).remote() for _ in range(4)])
@env.task
def speak_beside():
    import ray
    def beside():
        print("spoken beside")
    ray.get(ray.remote(beside).remote())
@env.task
def speak():
    import ray
    speak_beside()
    def before():
        print("spoken before")
    ray.get(ray.remote(before).remote())
@env.task
def call():
    print("called")
    work_for_ever()"""
RAY = "import ray, time\n"
IS_FREE = RAY + "ray.get(ray.remote(num_cpus=2)(lambda: 'free').remote())"


@pytest.fixture(scope="module")
def ray_book(tmp_path_factory) -> Notebook:
    """A notebook whose `env` has a node of two CPUs."""
    with notebook(tmp_path_factory.mktemp("ray"), DECLARE) as book:
        book.run("%flyte up env", timeout=120)
        yield book


def test_an_interrupt_ends_what_the_cell_has_submitted_and_nothing_else(ray_book):
    before = """
    @ray.remote(num_cpus=0)
    class Kept:
        async def wait(self):
            import asyncio
            await asyncio.sleep(5)
            return "waited"
    kept = Kept.remote()
    ref = kept.wait.remote()
    """
    ray_book.task(f"    {RAY.strip()}{before}", "-r kept,ref")
    body = RAY + (
        "@ray.remote(num_cpus=0)\nclass Deaf:\n    def sleep(self):\n        time.sleep(3600)\n"
        "print('in')\n"
        "ray.get([ray.remote(lambda: time.sleep(3600)).remote() for _ in range(4)]"
        " + [Deaf.options(num_cpus=0).remote().sleep.remote()])"
    )
    cell = ray_book.submit(task(body))
    ray_book.until_printed(cell, "in")
    ray_book.interrupt()
    assert ray_book.wait(cell).error.name == "KeyboardInterrupt"
    assert ray_book.task(IS_FREE).result == "'free'"
    assert ray_book.task(RAY + "ray.get(ref)").result == "'waited'"
    actors = (
        "from ray.util.state import list_actors\n"
        "sorted(a.class_name for a in list_actors() if a.state == 'ALIVE')"
    )
    assert ray_book.task(actors).result == "['Kept']"


def test_an_attempt_does_not_wait_behind_the_tasks_of_the_one_before(ray_book, tmp_path):
    body = f"""
    import os, ray, time
    @ray.remote(num_cpus=2)
    def second():
        return "second"
    if not os.path.exists({str(tmp_path / "first")!r}):
        open({str(tmp_path / "first")!r}, "w").close()
        ray.get([ray.remote(lambda: time.sleep(3600)).remote() for _ in range(3)], timeout=1)
    ray.get(second.remote())
    """
    cell = ray_book.task(body, "--retries 1")
    assert cell.result == "'second'"
    assert "1 more attempt" in cell.stderr


def test_a_run_that_fails_gives_back_what_its_placement_groups_hold(ray_book):
    body = RAY + "ray.get(ray.util.placement_group([{'CPU': 2}]).ready())\n1 / 0"
    assert ray_book.fail(task(body)).name == "ZeroDivisionError"
    assert ray_book.task(IS_FREE).result == "'free'"


def test_tasks_whose_refs_nobody_holds_end_with_a_run_that_fails(ray_book):
    body = RAY + (
        "for _ in range(3):\n    ray.remote(lambda: time.sleep(3600)).remote()\n"
        "time.sleep(1)\n1 / 0"
    )
    assert ray_book.fail(task(body)).name == "ZeroDivisionError"
    assert ray_book.task(IS_FREE).result == "'free'"


def test_a_time_limit_ends_what_the_cell_has_submitted(ray_book):
    body = RAY + "ray.get([ray.remote(lambda: time.sleep(3600)).remote() for _ in range(3)])"
    assert ray_book.fail(task(body, "--timeout 1")).name == "TaskTimeout"
    assert ray_book.task(IS_FREE).result == "'free'"


def test_an_interrupt_ends_what_a_function_in_a_thread_has_submitted(ray_book):
    cell = ray_book.submit("flyte_jupyter.run(call).result()")
    ray_book.until_printed(cell, "in")
    ray_book.interrupt()
    assert ray_book.wait(cell).error.name == "KeyboardInterrupt"
    assert ray_book.task(IS_FREE).result == "'free'"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("ray.remote(num_cpus=3)(lambda: 1).remote()", "{'CPU': 3} is waited for"),
        (
            "ray.util.placement_group([{'CPU': 2}, {'CPU': 2}]).ready()",
            "a placement group {'CPU': 2}, {'CPU': 2} (PACK) is waited for",
        ),
    ],
)
def test_what_no_node_has_is_said_while_it_is_waited_for(ray_book, asked, said):
    cell = ray_book.submit(task(f"{RAY}waited_for = {asked}\nray.get(waited_for)"))
    ray_book.until(lambda: cell.stderr, what="a line of it")
    ray_book.interrupt()
    assert ray_book.wait(cell).error.name == "KeyboardInterrupt"
    assert cell.stderr.startswith(f"{said} and no node can give it: the most is {{'CPU': 2}}.")
    assert cell.stderr.count("waited for") == 1


def test_what_workers_print_for_a_function_in_a_thread_is_in_its_own_log(ray_book):
    ray_book.run("flyte_jupyter.run(speak).result()")
    logs = ray_book.value("[run.log() for run in flyte_jupyter.session().runs[-2:]]")
    (before,) = [log for log in logs if "spoken before" in log]
    (beside,) = [log for log in logs if "spoken beside" in log]
    assert "spoken beside" not in before
    assert "spoken before" not in beside
