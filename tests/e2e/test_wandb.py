"""Weights & Biases without a network: runs of tasks, of what they call, and of ranks."""

from __future__ import annotations

import json

import pytest

from tests.notebook import Notebook, notebook

pytest.importorskip("wandb")
pytestmark = pytest.mark.timeout(300)

DECLARE = """\
import flyte, flyte_jupyter
from flyteplugins.wandb import get_wandb_run, wandb_config, wandb_init
env = flyte.TaskEnvironment(name="training", env_vars={"WANDB_MODE": "offline",
    "WANDB_DIR": FOLDER, "WANDB_SILENT": "true"})
other = flyte.TaskEnvironment(name="other", env_vars={"WANDB_MODE": "offline",
    "WANDB_DIR": FOLDER, "WANDB_SILENT": "true"})

@wandb_init
@other.task
async def evaluate(x: int) -> str:
    run = get_wandb_run()
    run.log({"x": x})
    return run.id

@wandb_init(project="demo", entity="team")
@env.task
async def train(rate: float) -> dict:
    run = get_wandb_run()
    for step in range(3):
        run.log({"loss": 1 / (step + 1)})
    called = await evaluate(5)
    return {"id": run.id, "called": called, "project": run.project, "tags": list(run.tags or ()),
            "offline": run.settings.mode}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wandb")


@pytest.fixture(scope="module")
def book(folder, tmp_path_factory) -> Notebook:
    with notebook(
        tmp_path_factory.mktemp("cwd"), DECLARE.replace("FOLDER", repr(str(folder)))
    ) as book:
        yield book


def test_a_task_has_a_run_and_what_it_calls_has_the_same(book, folder):
    found = book.value("flyte_jupyter.run(train, rate=0.1).result()")
    assert found["project"] == "demo"
    assert found["called"] == found["id"]
    assert found["offline"] == "offline"
    assert list((folder / "wandb").glob(f"offline-run-*-{found['id']}"))


def test_a_second_run_is_another_also_in_what_it_calls(book):
    first = book.value("flyte_jupyter.run(train, rate=0.1).result()")
    second = book.value("flyte_jupyter.run(train, rate=0.1).result()")
    assert first["id"] != second["id"]
    assert second["called"] == second["id"]


def test_a_decorated_task_may_call_itself(book):
    book.run(
        "@wandb_init(project='demo')\n@env.task\nasync def down(n: int) -> int:\n"
        "    return 0 if n == 0 else 1 + await down(n - 1)"
    )
    assert book.value("flyte_jupyter.run(down, 2).result()") == 2


def test_a_decorated_plain_task_is_interrupted(book):
    book.run(
        "@wandb_init(project='demo')\n@env.task\ndef sleeps() -> int:\n"
        "    import time\n    print('asleep', flush=True)\n    time.sleep(600)\n    return 1"
    )
    cell = book.submit("flyte_jupyter.run(sleeps).result()")
    book.until_printed(cell, "asleep")
    book.interrupt()
    book.wait(cell)
    assert cell.error.name == "KeyboardInterrupt"
    assert book.value("flyte_jupyter.run(evaluate, 1).result() != ''")


def test_its_link_is_below_the_cell_and_its_name_is_of_this_session(book):
    cell = book.run("flyte_jupyter.run(train, rate=0.1).result()")
    (link,) = [c for c in cell.displays if "wandb.ai" in c["text/plain"]]
    identity = book.value("_['id']")
    assert f"https://wandb.ai/team/demo/runs/{identity}" in link["text/plain"]
    assert "<a href='https://wandb.ai/team/demo/runs/" in link["text/html"]
    assert identity.partition("-")[0] == "train"
    assert len(identity) > len("train-1-train-1")


def test_its_configuration_comes_with_the_call(book):
    book.run(
        "@wandb_init\n@env.task\nasync def bare() -> list:\n    run = get_wandb_run()\n"
        "    return [run.project, list(run.tags)]"
    )
    book.run("context = wandb_config(project='other', tags=['a'])")
    found = book.value("flyte_jupyter.with_runcontext(custom_context=context).run(bare).result()")
    assert found == ["other", ["a"]]


def test_a_task_that_fails_raises_what_it_raised(book):
    book.run(
        "@wandb_init(project='demo')\n@env.task\ndef wrong() -> int:\n    raise KeyError('inside')"
    )
    error = book.fail("flyte_jupyter.run(wrong).result()")
    assert error.name == "KeyError"
    assert "raise KeyError('inside')" in error.traceback


RANKS = """\
from flyteplugins.pytorch import Elastic
ranks = flyte.TaskEnvironment(name="ranks", plugin_config=Elastic(nnodes=1, nproc_per_node=2),
    env_vars={"WANDB_MODE": "offline", "WANDB_DIR": FOLDER, "WANDB_SILENT": "true"})

@wandb_init(project="demo")
@ranks.task
def distributed() -> list:
    import torch.distributed as dist
    dist.init_process_group()
    run = get_wandb_run()
    if run is not None:
        run.log({"rank": dist.get_rank()})
    runs = [None, None]
    dist.all_gather_object(runs, run.id if run is not None else None)
    return runs
"""


def test_one_rank_has_a_run_as_well(book):
    pytest.importorskip("torch")
    book.run(
        "from flyteplugins.pytorch import Elastic\n"
        "single = flyte.TaskEnvironment(name='single', env_vars=env.env_vars,\n"
        "    plugin_config=Elastic(nnodes=1, nproc_per_node=1))\n"
        "@wandb_init(project='demo')\n@single.task\ndef alone() -> str:\n"
        "    return get_wandb_run().id"
    )
    book.run("found = flyte_jupyter.run(alone).result()", timeout=200)
    assert book.value("found").startswith("alone-")


def test_rank_0_alone_logs(book, folder):
    pytest.importorskip("torch")
    book.run(RANKS.replace("FOLDER", repr(str(folder))))
    cell = book.run("found = flyte_jupyter.run(distributed).result()", timeout=200)
    first, second = book.value("found")
    assert first
    assert second is None
    assert list((folder / "wandb").glob(f"offline-run-*-{first}"))
    assert cell.error is None


def test_context_reaches_what_is_called(book):
    book.run(
        "@other.task\nasync def below() -> dict:\n    return flyte.get_custom_context()\n"
        "@env.task\nasync def above() -> list:\n    inner = await below()\n"
        "    with flyte.custom_context(more='2'):\n        return [inner, await below()]"
    )
    found = book.value(
        "flyte_jupyter.with_runcontext(custom_context={'a': '1'}).run(above).result()"
    )
    assert found == [{"a": "1"}, {"a": "1", "more": "2"}]
    assert json.dumps(book.value("flyte_jupyter.run(below).result()")) == "{}"
