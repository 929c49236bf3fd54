"""What loading the extension costs."""

from __future__ import annotations

from statistics import median

from tests.bench.notebook import Notebook
from tests.bench.rows import Row, spread

_LOAD = """
import time
started = time.perf_counter()
get_ipython().run_line_magic("load_ext", "flyte_jupyter")
time.perf_counter() - started
"""


def load_ext(quick: bool) -> list[Row]:
    """Time ``%load_ext flyte_jupyter``, imports included, in fresh kernels that have run a cell."""
    times = []
    for _ in range(3 if quick else 9):
        with Notebook() as notebook:
            notebook.run("pass")
            times.append(notebook.run(_LOAD).value)
    met = median(times) <= 0.15
    return [Row("%load_ext flyte_jupyter", spread(times), target="<= 0.15 s", met=met)]
