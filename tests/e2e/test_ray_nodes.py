"""The nodes of a Ray cluster: what each has, and what happens when one of Ray's parts dies."""

from __future__ import annotations

import psutil
import pytest

from tests.notebook import Notebook, notebook, task

pytest.importorskip("ray")

LONG = 150
SECRET = "ray-never-shown"
DECLARE = """\
import flyte
from flyteplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig
env = flyte.TaskEnvironment(
    name="declared", env_vars={"COLOUR": "red"}, secrets=["api-key"],
    plugin_config=RayJobConfig(
        head_node_config=HeadNodeConfig(requests=flyte.Resources(cpu=2, memory="512Mi")),
        worker_node_config=[WorkerNodeConfig(
            group_name="told", replicas=2, requests=flyte.Resources(cpu=3, memory="300Mi"),
            ray_start_params={
                "num-cpus": "1", "object-store-memory": "100000000",
                "resources": '{"special": 2}', "labels": "tier=gold"})]))"""
RAY = "import os, ray, sys, time\n"


@pytest.fixture(scope="module")
def ray_book(tmp_path_factory) -> Notebook:
    """A notebook whose `env` has a head and two nodes, a variable and a secret, up already."""
    with notebook(tmp_path_factory.mktemp("ray"), DECLARE, env={"API_KEY": SECRET}) as book:
        book.run("%flyte up env", timeout=LONG)
        yield book


def part(book: Notebook, member: str, name: str) -> psutil.Process:
    """Return one of Ray's own processes of a member."""
    (found,) = [p for p in book.process(member).children(recursive=True) if p.name() == name]
    return found


def test_every_node_has_what_was_asked_for(ray_book):
    body = """
names = ("CPU", "memory", "object_store_memory", "special")
nodes = {
    node["NodeName"]: ([node["Resources"].get(name, 0) for name in names], node["Labels"])
    for node in ray.nodes() if node["Alive"]
}
"""
    ray_book.task(RAY + body, "-o nodes")
    nodes = ray_book.value("nodes")
    assert sorted(nodes) == ["head-0", "told-0", "told-1"]
    head, labels = nodes["head-0"]
    assert (head[0], head[1], head[3]) == (2, 512 * 2**20, 0)
    assert labels["ray.io/node-group"] == "head"
    for name in ("told-0", "told-1"):
        resources, labels = nodes[name]
        assert resources == [1, 300 * 2**20, 100_000_000, 2]
        assert (labels["ray.io/node-group"], labels["tier"]) == ("told", "gold")


def test_variables_and_secrets_are_in_remote_tasks_and_actors(ray_book):
    body = """
def look():
    return os.environ["COLOUR"], len(os.environ["API_KEY"])
@ray.remote(num_cpus=0)
class Actor:
    def look(self):
        return look()
actor = Actor.remote()
found = [look(), ray.get(ray.remote(look).remote()), ray.get(actor.look.remote())]
"""
    ray_book.task(RAY + body, "-o found")
    assert ray_book.value("found") == [("red", len(SECRET))] * 3
    for log in ("head-0", "told-0"):
        ray_book.run(f"%flyte logs env {log} -n 0")
    assert SECRET not in "".join(cell.shown for cell in ray_book.cells.values())


def test_usage_statistics_are_off_in_all_of_the_cluster(ray_book):
    body = """
from ray._common.usage import usage_lib
asked = usage_lib.usage_stats_enabled
found = [asked(), ray.get(ray.remote(asked).remote())]
# Else the dashboard would report that they are off.
silent = usage_lib.is_ray_init_cluster(ray._private.worker.global_worker.gcs_client)
"""
    ray_book.task(RAY + body, "-o found,silent")
    assert ray_book.value("found, silent") == ([False, False], True)
    assert part(ray_book, "head-0", "gcs_server").environ()["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_workers_write_to_stderr_is_there_in_the_cell(ray_book):
    body = "@ray.remote\ndef speak(): print('complaint', file=sys.stderr)\nray.get(speak.remote())"
    cell = ray_book.task(f"{RAY}{body}; None")
    assert "(speak pid=" in cell.stderr
    assert cell.stderr.count("complaint") == 1
    assert "complaint" not in cell.stdout


def test_what_workers_print_for_a_run_in_the_background_is_in_the_cell_that_began_it(
    ray_book, tmp_path
):
    ray_book.run(f"gate = {str(tmp_path / 'gate')!r}")
    body = """
@ray.remote
def speak():
    print('before', flush=True)
    while not os.path.exists(gate):
        time.sleep(0.05)
    print('after')
ray.get(speak.remote())
"""
    cell = ray_book.submit(task(RAY + body, "--bg work"))
    ray_book.until_printed(cell, "before")
    other = ray_book.run("print('another cell')")
    (tmp_path / "gate").touch()
    waits = ray_book.run("work.result()")
    ray_book.until(lambda: "after" in cell.stdout)
    assert (cell.stdout.count("before"), cell.stdout.count("after")) == (1, 1)
    assert other.stdout == "another cell\n"
    assert waits.stdout == ""
    assert "after" in ray_book.run("print(work.log())").stdout


def test_a_task_on_a_node_whose_raylet_dies_runs_again_on_another(ray_book, tmp_path):
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    body = f"""
@ray.remote(resources={{"special": 1}})
def slow():
    me = ray.get_runtime_context().get_node_id()
    name = next(node["NodeName"] for node in ray.nodes() if node["NodeID"] == me)
    with open({str(runs)!r}, "a") as file:
        print(name, me, file=file)
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.05)
    return me
where = ray.get(slow.remote())
"""
    ray_book.run(task(RAY + body, "-o where --bg work"))
    ray_book.until(lambda: runs.exists() and runs.read_text().endswith("\n"))
    name, first = runs.read_text().split()
    part(ray_book, name, "raylet").kill()
    ray_book.until(lambda: runs.read_text().count("\n") == 2, LONG, "the task to run again")
    gate.touch()
    second = ray_book.value("work.result()")
    assert runs.read_text().split()[3] == second != first

    def line() -> str:
        status = ray_book.run("%flyte status env").result
        return next(line for line in status.splitlines() if line.startswith(name))

    ray_book.until(lambda: "ready" in line() and "exit code 1" in line(), LONG, "a new node")
    assert "raylet of this node ended" in ray_book.run(f"%flyte logs env {name} -n 0").result


def test_the_end_of_the_control_store_is_a_lost_cluster_and_the_next_cell_starts_another(ray_book):
    cell = ray_book.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    ray_book.until_printed(cell)
    part(ray_book, "head-0", "gcs_server").kill()
    error = ray_book.wait(cell).error
    assert error.name == "ClusterLost"
    assert "head-0 ended" in error.value
    assert "gcs_server" in error.value
    again = ray_book.submit(task(RAY + "ray.get(ray.put(8))"))
    assert ray_book.wait(again, LONG).result == "8"
