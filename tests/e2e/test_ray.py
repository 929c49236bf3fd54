"""Ray clusters: the cell is connected, code and output travel, and members may die."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from flyte_jupyter.backends.local import cluster_operator
from tests import leaks
from tests.notebook import Notebook, notebook, task

pytest.importorskip("ray")

DECLARE = """\
import flyte
from flyteplugins.ray import HeadNodeConfig, RayJobConfig, WorkerNodeConfig
env = flyte.TaskEnvironment(name="ray_env", plugin_config=RayJobConfig(worker_node_config=[
    WorkerNodeConfig(group_name="small", replicas=1, ray_start_params={"num-cpus": "1"}),
    WorkerNodeConfig(group_name="large", replicas=1, ray_start_params={
        "num-cpus": "1", "resources": '{"special": 1}'}),
]))"""
RAY = "import ray\n"


@pytest.fixture(scope="module")
def ray_book(tmp_path_factory) -> Notebook:
    """A notebook whose `env` is a Ray environment of two groups, up already."""
    with notebook(tmp_path_factory.mktemp("ray"), DECLARE) as book:
        book.run("%flyte up env", timeout=120)
        yield book


def processes(book):
    """Return everything of the notebook's clusters."""
    return [process for process, _ in leaks.marked(book.pid)]


def test_a_cell_is_connected_with_and_without_init(ray_book):
    body = RAY + "ray.get(ray.remote(lambda x: x + 1).remote(1))"
    assert ray_book.task(body).result == "2"
    assert ray_book.task(RAY + "ray.init()\n" + body).result == "2"
    assert "RayContext" in ray_book.task(RAY + "ray.init(ignore_reinit_error=True)").result


def test_groups_are_nodes_that_tasks_can_choose(ray_book):
    body = RAY + (
        "@ray.remote\ndef where(): return ray.get_runtime_context().get_node_id()\n"
        "names = {n['NodeID']: n['NodeName'] for n in ray.nodes() if n['Alive']}\n"
        "print(sorted(names.values()))\n"
        "chosen = [names[ray.get(where.options(label_selector={'ray.io/node-group': g}).remote())]"
        " for g in ('small', 'large')]\n"
        "special = names[ray.get(where.options(resources={'special': 1}).remote())]"
    )
    cell = ray_book.task(body, "-o chosen,special")
    assert cell.stdout == "['head-0', 'large-0', 'small-0']\n"
    assert ray_book.value("chosen") == ["small-0", "large-0"]
    assert ray_book.value("special") == "large-0"


def test_what_workers_print_is_in_the_cell_that_had_it_printed(ray_book):
    for number in range(3):
        body = RAY + (
            f"@ray.remote\ndef speak():\n    print('words', {number})\n"
            "ray.get(speak.remote()); None"
        )
        cell = ray_book.task(body)
        assert f"words {number}" in cell.stdout
        assert "(speak pid=" in cell.stdout
        assert cell.stdout.count("words") == 1


def test_actors_and_refs_are_kept_for_the_next_cell(ray_book):
    body = RAY + (
        "@ray.remote\nclass Counter:\n    n = 0\n    def add(self):\n"
        "        self.n += 1\n        return self.n\n"
        "counter = Counter.options(num_cpus=0).remote()\nref = ray.put([1, 2, 3])\n"
        "ray.get(counter.add.remote())"
    )
    assert ray_book.task(body, "-r counter,ref").result == "1"
    after = RAY + "ray.get(counter.add.remote()), ray.get(ref)"
    assert ray_book.task(after).result == "(2, [1, 2, 3])"


def test_functions_and_modules_of_the_notebook_reach_the_workers_fresh(ray_book):
    folder = ray_book.value("__import__('os').getcwd()")
    path = os.path.join(folder, "beside_ray.py")
    with open(path, "w") as file:
        file.write("def scale(x):\n    return 2 * x\n")
    ray_book.run("import beside_ray\ndef work(x): return beside_ray.scale(x)")
    body = RAY + "ray.get([ray.remote(work).remote(2), ray.remote(beside_ray.scale).remote(3)])"
    assert ray_book.task(body).result == "[4, 6]"
    with open(path, "w") as file:
        file.write("def scale(x):\n    return 300 * x\n")
    assert ray_book.task(body).result == "[600, 900]"
    ray_book.run("def work(x): return -x")
    assert ray_book.task(body).result == "[-2, 900]"


def test_remote_functions_and_classes_defined_in_the_notebook_can_be_used(ray_book):
    ray_book.run("import ray\n@ray.remote\ndef triple(x): return 3 * x")
    assert ray_book.task("ray.get(triple.remote(4))").result == "12"


def test_an_error_on_a_worker_shows_its_line(ray_book):
    body = RAY + "@ray.remote\ndef fails():\n    raise KeyError(7)\nray.get(fails.remote())"
    error = ray_book.fail(task(body))
    assert "KeyError" in error.name
    assert "in fails" in error.traceback


def test_an_interrupt_ends_a_get_and_the_cluster_stays(ray_book):
    body = RAY + (
        "import time\nslow = ray.remote(lambda: time.sleep(600)).remote()\n"
        "print('in')\nray.get(slow)"
    )
    driver = ray_book.process("driver").pid
    cell = ray_book.submit(task(body))
    ray_book.until_printed(cell, "in")
    ray_book.interrupt()
    assert ray_book.wait(cell).error.name == "KeyboardInterrupt"
    assert ray_book.process("driver").pid == driver
    assert ray_book.task(RAY + "ray.get(ray.put(5))").result == "5"


def test_everything_listens_on_loopback_and_no_command_line_holds_a_token(ray_book):
    ray_book.task("import os\ntoken = os.environ['RAY_AUTH_TOKEN']", "-o token")
    secret = ray_book.value("token")
    assert len(secret) >= 32
    seen = 0
    for process in processes(ray_book):
        assert secret not in " ".join(process.cmdline())
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                seen += 1
                host = connection.laddr.ip.removeprefix("::ffff:")
                assert host in ("127.0.0.1", "::1"), process.cmdline()[:2]
    assert seen > 3


def test_nobody_gets_in_without_the_token(ray_book):
    ray_book.task("import os\na = os.environ['RAY_ADDRESS']", "-o a")
    code = f"import ray; ray.init({ray_book.value('a')!r}, log_to_driver=False)"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    clean["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for environ in (clean, {**clean, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode != 0
        assert "uthentic" in done.stderr


def test_a_group_is_scaled_by_its_name_and_keeps_the_other(ray_book):
    assert "has several groups" in ray_book.fail("%flyte scale env 2").value
    assert "no group 'none'" in ray_book.fail("%flyte scale env 2 --group none").value
    grown = ray_book.run("%flyte scale env 2 --group small", timeout=120).result
    assert grown.count("small-") == 2
    assert grown.count("large-") == 1
    count = RAY + "sum(n['Alive'] for n in ray.nodes())"
    assert ray_book.task(count).result == "4"
    shrunk = ray_book.run("%flyte scale env 1 --group small").result
    assert shrunk.count("small-") == 1


def test_a_task_on_a_node_that_leaves_ends_there(ray_book, tmp_path):
    ray_book.run("%flyte scale env 2 --group small", timeout=120)
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    body = f"""
    import os, ray, time
    @ray.remote(max_retries=0)
    def slow():
        with open({str(runs)!r}, "a") as file:
            print(ray.get_runtime_context().get_node_id(), file=file)
        while not os.path.exists({str(gate)!r}):
            time.sleep(0.05)
        return 1
    ones = [slow.options(scheduling_strategy="SPREAD").remote() for _ in range(3)]
    while not ray._private.state.state.get_draining_nodes():
        time.sleep(0.05)
    print("draining")
    total = sum(ray.get(ones))
    """
    cell = ray_book.submit(task(body, "-o total --bg work"))
    ray_book.until(lambda: runs.exists() and len(runs.read_text().split()) == 3)
    assert len(set(runs.read_text().split())) == 3
    scaling = ray_book.submit("%flyte scale env 1 --group small")
    ray_book.until_printed(cell, "draining")
    # By then one is ended that has not been waited for.
    gone = leaks.until(lambda: len(ray_book.processes("small")) < 2, cluster_operator._LEAVING + 1)
    assert not gone, "it has a task"
    gate.touch()
    ray_book.wait(scaling)
    assert ray_book.run("work.result()").result == "3"
    alive = RAY + "sum(n['Alive'] for n in ray.nodes())"
    ray_book.until(lambda: ray_book.task(alive).result == "3")


def test_an_actor_does_not_hold_a_node_that_leaves(ray_book):
    ray_book.run("%flyte scale env 2 --group small", timeout=120)
    ray_book.task(
        RAY
        + """
@ray.remote(num_cpus=1)
class Idle:
    def ping(self):
        return 1
idle = [Idle.remote() for _ in range(3)]
ray.get([actor.ping.remote() for actor in idle])
""",
        "-r idle",
    )
    ray_book.run("%flyte scale env 1 --group small")
    alive = RAY + "sum(n['Alive'] for n in ray.nodes())"
    ray_book.until(lambda: ray_book.task(alive).result == "3", 90)
    ray_book.task(RAY + "for actor in idle:\n    ray.kill(actor)")


def test_a_dead_node_is_replaced_and_work_goes_on(ray_book):
    victim = ray_book.process("large-0").pid
    os.kill(victim, signal.SIGKILL)

    def line() -> str:
        status = ray_book.run("%flyte status env").result
        return next(line for line in status.splitlines() if line.startswith("large-0"))

    ray_book.until(lambda: "killed by SIGKILL" in line() and "ready" in line(), 120, "the new node")
    body = RAY + "ray.get(ray.remote(lambda: 7).options(resources={'special': 1}).remote())"
    assert ray_book.task(body).result == "7"


def test_logs_are_there_for_every_role(ray_book):
    assert "gcs_server" in ray_book.run("%flyte logs env head-0").result
    assert "raylet" in ray_book.run("%flyte logs env small-0").result


def test_the_dashboard_opens_for_who_has_its_link_and_for_nobody_else(ray_book):
    ray_book.run(
        "import urllib.request, urllib.error\n"
        "from flyte_jupyter.sessions import session\n"
        "(link,) = session().cluster('env').links.values()\n"
        "def status(url):\n"
        "    try:\n"
        "        with urllib.request.urlopen(url, timeout=100) as answer:\n"
        "            return answer.status\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return error.code"
    )
    bare = "link.split('/')[0] + '//' + link.split('/')[2]"
    pages = f"[status({bare} + p) for p in ('/', '/api/cluster_status', '/wrong/')]"
    assert ray_book.value(pages) == [404, 404, 404]
    shown = ray_book.run("%flyte dashboard env")
    assert "jobs submitted to it do not work" in shown.stdout + shown.stderr
    there = "[status(link + p) for p in ('', 'api/cluster_status', 'nodes?view=summary')]"
    assert ray_book.run(there, timeout=110).result == "[200, 200, 200]"
    # It is killed in the end: what it makes for itself has to go with the cluster's folder.
    assert [f for folder in leaks.folders() for f in folder.rglob("pymp-*")]
    # Of a node that another test has killed Ray hears only when it does not answer for a while.
    body = (
        "import time\nfrom ray.util.state import list_nodes\n"
        "def alive():\n    return sum(node.state == 'ALIVE' for node in list_nodes())\n"
        "until = time.monotonic() + 40\n"
        "while alive() > 3 and time.monotonic() < until:\n    time.sleep(0.5)\nalive()"
    )
    assert ray_book.task(body).result == "3"


def test_two_clusters_run_side_by_side(ray_book):
    ray_book.run(
        'other = flyte.TaskEnvironment(name="other", plugin_config=RayJobConfig('
        "worker_node_config=[], head_node_config=HeadNodeConfig("
        'ray_start_params={"num-cpus": "1"})))'
    )
    body = "import ray\n[n['NodeName'] for n in ray.nodes() if n['Alive']]"
    assert ray_book.run(task(body, environment="other"), timeout=120).result == "['head-0']"
    assert len(ray_book.value(f"{ray_book.task(body).result!r}").split(",")) == 3
    ray_book.run("%flyte down other")


def test_a_crashed_driver_leaves_the_nodes_and_is_connected_again(ray_book):
    nodes = {p.pid for p in ray_book.processes("small")}
    assert ray_book.fail(task("import os\nos._exit(3)")).name == "DriverLost"
    assert ray_book.task(RAY + "ray.get(ray.put(6))").result == "6"
    assert {p.pid for p in ray_book.processes("small")} == nodes


def test_a_lost_head_is_a_lost_cluster_and_the_next_cell_starts_another(ray_book):
    cell = ray_book.submit(task("import time\nprint('in')\ntime.sleep(600)"))
    ray_book.until_printed(cell)
    ray_book.process("head-0").send_signal(signal.SIGKILL)
    error = ray_book.wait(cell).error
    assert error.name == "ClusterLost"
    assert "head-0 ended: killed by SIGKILL" in error.value
    ray_book.until(lambda: not processes(ray_book), what="the rest to go")
    assert ray_book.wait(ray_book.submit(task(RAY + "ray.get(ray.put(8))")), 120).result == "8"


def test_what_tasks_have_printed_is_shown_before_the_job_is_left(ray_book):
    body = """
    import ray
    ray.init()
    @ray.remote
    def say(word):
        print("said", word)
    ray.get([say.remote(word) for word in ("one", "two", "three")])
    ray.shutdown()
    """
    for _ in range(3):
        cell = ray_book.task(body)
        assert sorted(re.findall(r"said (\w+)", cell.stdout)) == ["one", "three", "two"]
    assert ray_book.task("import ray\nray.get(ray.put(4))").result == "4"


def test_another_init_says_that_it_ends_a_job_unless_it_is_told_to_ignore_that(ray_book):
    ray_book.task("import ray\nkept = ray.put(5)", "-r kept")
    idiom = 'import ray\nray.init(namespace="mine", ignore_reinit_error=True)\nray.get(kept)'
    cell = ray_book.task(idiom)
    assert (cell.result, cell.stderr) == ("5", "")
    cell = ray_book.task('import ray\nray.init(namespace="mine")\nray.get(ray.put(6))')
    assert cell.result == "6"
    assert "another job begins; actors and objects of the one before are gone" in cell.stderr
    ray_book.task("import ray\nray.init(namespace='other')")


def test_init_can_have_workers_be_quiet_and_names_what_it_does_not_heed(ray_book):
    say = "ray.get(ray.remote(lambda: print('said')).remote())"
    cell = ray_book.task(
        f"import ray\nray.init(log_to_driver=False, include_dashboard=True)\n{say}"
    )
    assert "said" not in cell.stdout
    assert cell.stderr == (
        "ray.init(include_dashboard=...): that changes nothing here, "
        "for the cluster is there already.\n"
    )
    cell = ray_book.task(f"import ray\nray.init(log_to_driver=True)\n{say}")
    assert cell.stdout.count("said") == 1


def test_a_flood_of_a_worker_belongs_to_its_cell(ray_book):
    body = """
    import ray
    @ray.remote
    def flood():
        print("x" * 99, *range(600_000), sep="\\n")
    ray.get(flood.remote())
    """
    ray_book.task(body)
    log = ray_book.run("%flyte logs").result
    assert "599999" in log
    assert "599999" not in ray_book.task("import ray\nray.get(ray.put(7))").stdout
