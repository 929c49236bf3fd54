from __future__ import annotations

import pkgutil
import subprocess
import sys

import flyte_jupyter.cells


def test_importing_the_layer_loads_nothing_heavy():
    modules = [m.name for m in pkgutil.iter_modules(flyte_jupyter.cells.__path__)]
    program = (
        "import sys\n"
        + "\n".join(f"import flyte_jupyter.cells.{name}" for name in modules)
        + "\nprint({'IPython', 'numpy', 'flyte', 'dask', 'pandas'} & set(sys.modules) or '')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == ""
