"""Sessions for scripts, without IPython."""

from __future__ import annotations

import flyte
import pytest
from cached_runs import cached_session

from flyte_jupyter import FlyteJupyter, Session


class Lines:
    """A sink that remembers what it was given, in order."""

    def __init__(self):
        self.streams = []
        self.shown = []

    @property
    def text(self):
        return "".join(text for _, text in self.streams)

    def stream(self, name, text):
        self.streams.append((name, text))

    def display(self, content, *, update=False):
        self.shown.append(content["data"])

    result = display

    def clear(self, wait):
        self.shown.clear()

    def run(self, function, *args):
        return function(*args)


@pytest.fixture
def sink():
    return Lines()


@pytest.fixture
def make_session():
    made = []

    def make(**settings):
        said = []
        plain = flyte.TaskEnvironment(name="plain_env")
        session = Session(FlyteJupyter(**settings), {"plain": plain}, said.append)
        session.said = said
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture(scope="module")
def session():
    """One session with one plain environment, `plain`, for tests that leave its driver alone."""
    made = Session(namespace={"plain": flyte.TaskEnvironment(name="plain_env")})
    made.ready(made.up("plain"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def caching():
    """One session with an environment that caches; `with_folder` gives each test its own."""
    with cached_session() as made:
        yield made


@pytest.fixture
def tally(tmp_path):
    """A file to which a cell appends a dot each time that it runs."""
    path = tmp_path / "tally"
    path.write_text("")
    return path
