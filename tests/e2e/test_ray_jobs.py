"""What a `RayJobConfig` says of the job, and how its cluster ends."""

from __future__ import annotations

import os
import time

import pytest

from tests import leaks
from tests.notebook import notebook, task

pytest.importorskip("ray")

DECLARE = """\
import flyte
from flyteplugins.ray import RayJobConfig, WorkerNodeConfig
def declare(name, **options):
    group = WorkerNodeConfig(
        group_name="one", replicas=1, ray_start_params={{"num-cpus": "1"}})
    return flyte.TaskEnvironment(
        name=name, plugin_config=RayJobConfig(worker_node_config=[group], **options))
env = declare("ray_env"{options})"""
LONG = 120


def declare(**options):
    return DECLARE.format(options="".join(f", {k}={v!r}" for k, v in options.items()))


def test_a_cluster_ends_with_its_job_if_it_is_told_to(tmp_path):
    with notebook(tmp_path, declare(shutdown_after_job_finishes=True)) as book:
        cell = book.run(task("import ray\nx = ray.get(ray.put(3))", "-o x"), timeout=LONG)
        assert cell.error is None
        assert book.value("x") == 3
        book.until(lambda: not list(leaks.marked(book.pid)), what="the cluster to go")
        assert "stopped" in book.run("%flyte status").result
        assert book.run(task("1 + 1"), timeout=LONG).result == "2"


def test_a_cluster_stays_for_as_long_as_its_job_is_to_be_remembered(tmp_path):
    options = {"shutdown_after_job_finishes": True, "ttl_seconds_after_finished": 6}
    with notebook(tmp_path, declare(**options)) as book:
        book.run(task("kept = 41", "-r kept"), timeout=LONG)
        time.sleep(3)
        assert book.run(task("kept + 1")).result == "42"
        began = time.monotonic()
        time.sleep(4)  # by now the first cell's time is over, and the second's is not
        assert list(leaks.marked(book.pid))
        book.until(lambda: not list(leaks.marked(book.pid)), what="the cluster to go")
        assert time.monotonic() - began >= 5
        assert "stopped" in book.run("%flyte status").result


def test_the_runtime_environment_is_that_of_the_job(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data.txt").write_text("forty-two")
    (tmp_path / "work" / "helper.py").write_text("NAME = __name__")
    (tmp_path / "elsewhere" / "shapes").mkdir(parents=True)
    (tmp_path / "elsewhere" / "shapes" / "__init__.py").write_text("CORNERS = 3")
    env = {
        "env_vars": {"COLOUR": "green"},
        "working_dir": "work",
        "py_modules": [str(tmp_path / "elsewhere" / "shapes")],
    }
    with notebook(tmp_path, declare(runtime_env=env)) as book:
        body = (
            "import ray\n@ray.remote\ndef look():\n    import os\n"
            "    import shapes\n"
            "    return os.environ['COLOUR'], open('data.txt').read(), shapes.CORNERS\n"
            "got = ray.get(look.remote())\n"
            "import os, shapes, helper\n"
            "here = os.environ['COLOUR'], os.getcwd(), shapes.CORNERS, helper.NAME"
        )
        cell = book.run(task(body, "-o got,here"), timeout=LONG)
        assert book.value("got") == ("green", "forty-two", 3)
        assert book.value("here") == ("green", os.path.realpath(tmp_path), 3, "helper")
        assert "the cell itself, which can import from it, in the notebook's folder" in cell.shown


def test_code_that_workers_have_copies_of_is_renewed_when_it_is_edited_or_that_is_said(tmp_path):
    source = tmp_path / "lib" / "shapes" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text("CORNERS = 3")
    look = (
        "import ray\n@ray.remote\ndef look():\n    import shapes\n    return shapes.CORNERS\n"
        "found = ray.get(look.remote())"
    )
    with notebook(tmp_path, declare(runtime_env={"py_modules": ["lib/shapes"]})) as book:
        book.run(task(look, "-o found"), timeout=LONG)
        source.write_text("CORNERS = 4444")
        book.task(look, "-o found")
        assert book.value("found") == 4444
        book.task("import ray\nref = ray.put(1)", "-r ref")
        source.write_text("CORNERS = 55")
        said = book.task(look, "-o found").stderr
        assert "Code below working_dir or py_modules was edited" in said
        assert book.value("found") == 4444
        assert "edited" not in book.task("import ray\nray.get(ref)").stderr
        book.run("del ref")
        book.task(look, "-o found")
        assert book.value("found") == 55


def test_a_cluster_that_is_named_is_used_and_stays(tmp_path):
    with notebook(tmp_path, declare()) as book:
        body = "import os, ray\na, t = os.environ['RAY_ADDRESS'], os.environ['RAY_AUTH_TOKEN']"
        book.run(task(body, "-o a,t"), timeout=LONG)
        before = {p.pid for p in book.processes("one")}
        book.run(
            "import os\nos.environ.update(RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=t)\n"
            "other = declare('other', address=a)"
        )
        body = "import ray\nray.get(ray.remote(lambda: print('from', {0}) or {0}).remote())"
        for number in (5, 6):
            cell = book.run(task(body.format(number), environment="other"), timeout=LONG)
            assert cell.result == str(number)
            assert cell.stdout.count("from") == cell.stdout.count(f"from {number}") == 1
        book.run("%flyte down other")
        assert {p.pid for p in book.processes("one")} == before
        assert book.task("import ray\nray.get(ray.put(2))").result == "2"


def test_an_address_where_nobody_is_says_so_in_one_line(tmp_path):
    with notebook(tmp_path, declare(address="127.0.0.1:1")) as book:
        error = book.fail(task("1"), timeout=170)
        assert error.name == "EngineError"
        assert "no Ray cluster is at 127.0.0.1:1" in error.value


def test_nothing_is_left_of_a_killed_kernel(tmp_path):
    before = leaks.look()
    with notebook(tmp_path, declare()) as book:
        book.run(task("import ray\nray.get(ray.put(b'x' * 10**7))\nNone"), timeout=LONG)
        assert book.process("one-0").is_running()
        book.kill()
    assert leaks.await_nothing(before) == []


def test_nothing_is_left_of_a_kernel_killed_while_its_cluster_starts(tmp_path):
    before = leaks.look()
    with notebook(tmp_path, declare()) as book:
        book.submit(task("1"))
        assert book.process("head-0").is_running()
        book.kill()
    assert leaks.await_nothing(before) == []
