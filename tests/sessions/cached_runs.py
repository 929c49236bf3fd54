"""Sessions whose runs are cached, and what their tests ask about them."""

from __future__ import annotations

import contextlib
import os

import flyte
from flyte import Cache

from flyte_jupyter import CellTask, FlyteJupyter, Session
from tests import leaks

COUNTED = "import pathlib\nwith pathlib.Path(tally).open('a') as f: f.write('.')\n"


@contextlib.contextmanager
def cached_session():
    """Start a session whose one cluster serves all environments of the name `cached`."""
    said = []
    made = Session(FlyteJupyter(), {}, said.append)
    made.said = said
    made.ready(made.up(flyte.TaskEnvironment(name="cached")))
    try:
        yield made
    finally:
        made.close()


def with_folder(session, path):
    """Give a session that has a history a cache folder of its own."""
    session.config.cache_folder = str(path)
    session.config.cache_limit = 1 << 30
    session.said.clear()
    return session


def submit(session, code, cache="auto", **task):
    declared = flyte.TaskEnvironment(name="cached", cache=cache)
    return session.submit(declared, CellTask(code, **{"returns": ("y",), **task}))


def run(session, tally, code="y = 1", cache="auto", values=None, **task):
    """Run a cell that leaves a dot; the tally is no input, for it differs from test to test."""
    if isinstance(cache, str):
        cache = Cache(cache, ignored_inputs=("tally",))
    values = {**(values or {}), "tally": str(tally)}
    made = submit(session, COUNTED + code, cache, values=values, **task)
    return session.wait(made), made.state


def entries(session):
    try:
        return sorted(os.listdir(session.config.cache_folder))
    except FileNotFoundError:
        return []


def settled(session):
    """Wait until what has been kept is written."""
    assert leaks.until(lambda: not session._runner._cache._writes)
