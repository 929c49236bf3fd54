"""What of the notebook's process a driver follows."""

from __future__ import annotations

import os
import sys

import pytest

from flyte_jupyter.driver import local_imports
from flyte_jupyter.driver.surroundings import Surroundings as Followed
from flyte_jupyter.sessions.surroundings import Surroundings


@pytest.fixture
def follow(monkeypatch):
    """Change the notebook, in this process; then be a driver that began before."""
    notebook, followed = Surroundings({"DECLARED", "PYTEST_CURRENT_TEST"}), Followed(list(sys.path))
    begun, environ = list(sys.path), dict(os.environ)
    monkeypatch.setattr(sys, "path", [*sys.path, "/of/the/packages"])
    monkeypatch.setattr(local_imports, "install", lambda roots: None)  # for good, in this process

    def as_driver(change):
        path, here = list(sys.path), dict(os.environ)
        sys.path[:] = begun
        become(environ)
        with monkeypatch.context() as patch:
            change(patch)
            around = notebook.changes()
        sys.path[:] = path
        become(here)
        followed.follow(around)
        return around

    yield as_driver
    become(environ)


def become(environ):
    os.environ.clear()
    os.environ.update(environ)


def test_nothing_is_said_of_what_is_as_it_was(follow):
    around = follow(lambda here: None)
    assert "path" not in around
    assert "environ" not in around


def test_the_search_path_is_the_notebooks_before_ones_own(follow):
    follow(lambda here: here.setattr(sys, "path", ["/new", *sys.path]))
    assert sys.path[0] == "/new"
    assert sys.path[-1] == "/of/the/packages"
    follow(lambda here: None)
    assert "/new" not in sys.path
    assert sys.path[-1] == "/of/the/packages"


def test_variables_come_change_and_go(follow):
    follow(lambda here: here.setenv("NEW", "1"))
    assert os.environ["NEW"] == "1"
    follow(lambda here: here.setenv("NEW", "2"))
    assert os.environ["NEW"] == "2"
    follow(lambda here: None)
    assert "NEW" not in os.environ


def test_what_the_cluster_declares_is_its_own(follow):
    os.environ["DECLARED"] = "by the environment"
    follow(lambda here: here.setenv("DECLARED", "in the notebook"))
    assert os.environ["DECLARED"] == "by the environment"


def test_a_value_that_begins_as_the_one_before_is_no_path(follow):
    os.environ["DATA"] = "/data"
    notebook, driver = Surroundings(), Followed(sys.path)
    os.environ["DATA"] = "/data/v2"
    around = notebook.changes()
    os.environ["DATA"] = "/data/v2"  # by the image
    driver.follow(around)
    assert os.environ["DATA"] == "/data/v2"


def test_what_was_added_to_a_path_stays_added(follow):
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{before}:/of/the/packages/bin"
    follow(lambda here: here.setenv("PATH", f"/new:{before}"))
    assert os.environ["PATH"] == f"/new:{before}:/of/the/packages/bin"
