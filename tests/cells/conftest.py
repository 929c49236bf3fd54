"""Fixtures for the analysis of cells."""

from __future__ import annotations

import functools

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from flyte_jupyter.cells.names import analyze


@pytest.fixture(scope="session")
def names_of():
    """`analyze` with IPython's own transform, which is what `shell.transform_cell` calls."""
    return functools.partial(analyze, transform=TransformerManager().transform_cell)


@pytest.fixture(scope="session")
def ipython_namespace():
    """What IPython itself puts into a notebook's variables, after one cell with a result."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("None", silent=True)
    namespace = dict(shell.user_ns) | {"_": 1, "_1": 1}
    shell.history_manager.end_session()
    return namespace
