"""A place for the benchmark's kernels to work in, of which nothing remains."""

from __future__ import annotations

import compileall
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.processes import end_all


@contextmanager
def workplace() -> Iterator[Path]:
    """Point every process that is started meanwhile at a temporary folder, and remove both.

    It holds what Jupyter, IPython, Dask and ipyparallel would else write into the user's own
    folders, and a copy of the package with its bytecode, as an installed wheel has it: a checkout
    may have none, and is edited while the benchmark runs.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="fjb-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        for folder in ("cwd", "tmp", "run"):
            (place / folder).mkdir(mode=0o700)
        os.environ.update(
            {
                "JUPYTER_RUNTIME_DIR": str(place / "run"),
                "IPYTHONDIR": str(place / "ipython"),
                "DASK_CONFIG": str(place / "dask"),
                "TMPDIR": str(place / "tmp"),
                "PYTHONPATH": str(_installed_copy(place)),
            }
        )
        try:
            yield place
        finally:
            end_all()
            os.environ.clear()
            os.environ.update(before)


def _installed_copy(place: Path) -> Path:
    spec = importlib.util.find_spec("flyte_jupyter")
    assert spec is not None
    assert spec.origin is not None
    site = place / "site-packages"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(spec.origin).parent, site / "flyte_jupyter", ignore=unwanted)
    compileall.compile_dir(site, quiet=2)
    return site
