"""A notebook that may use one CPU of its machine, and asks for more."""

from __future__ import annotations

import os

import pytest

from tests.notebook import Notebook, notebook

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to CPUs"
)
BIND = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
DECLARE = """\
import flyte
from flyteplugins.dask import Dask, WorkerGroup
from flyteplugins.pytorch import Elastic
with_dask = flyte.TaskEnvironment(name="with_dask", plugin_config=Dask(workers=WorkerGroup(
    number_of_workers=2, resources=flyte.Resources(cpu=3, memory="512Mi"))))
with_torch = flyte.TaskEnvironment(
    name="with_torch", plugin_config=Elastic(nnodes=1, nproc_per_node=2))"""
USABLE = "import os\nprint(len(os.sched_getaffinity(0)))"


@pytest.fixture(scope="module")
def bound(tmp_path_factory) -> Notebook:
    """A notebook with environments of two engines that ask for more than it may use."""
    folder = tmp_path_factory.mktemp("bound")
    cells = (BIND, "%load_ext flyte_jupyter", DECLARE)
    with notebook(folder, *cells, extension=False) as book:
        yield book


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            "with_dask",
            "with_dask: 6 CPUs are asked for and this machine has 1; the workers share that.\n",
        ),
        ("with_torch", "2 ranks share the 1 CPU of this machine.\n"),
    ],
)
def test_the_first_cell_has_one_line_that_says_what_is_given(bound, environment, line):
    cell = bound.task(USABLE, environment=environment)
    assert (cell.stdout, cell.stderr) == ("1\n", line)
    assert bound.task(USABLE, environment=environment).stderr == ""
