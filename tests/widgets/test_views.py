"""Tables, links and progress: text wherever there is no browser."""

from __future__ import annotations

import importlib.util

import pytest

from flyte_jupyter.widgets.links import reachable
from flyte_jupyter.widgets.progress import StartProgress
from flyte_jupyter.widgets.table import Table


def test_a_table_is_aligned_as_text():
    table = Table(["name", "state"], [["a", "ready"], ["longer", "up"]], links={"Page": "http://x"})
    assert repr(table).split("\n") == [
        "name    state",
        "a       ready",
        "longer  up",
        "Page: http://x",
    ]


def test_a_table_escapes_what_it_shows():
    shown = Table(["<h>"], [["<script>"]], links={"<t>": 'http://x/"y'})._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert 'href="http://x/&quot;y"' in shown


def test_an_empty_table_says_so():
    assert repr(Table(["a"], [], empty="no runs yet")) == "no runs yet"
    assert Table(["a"], [], empty="<none>")._repr_html_() == "<i>&lt;none&gt;</i>"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")


def test_links_are_left_alone_on_this_machine(monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.delenv("FLYTE_JUPYTER_BASE_URL", raising=False)
    assert reachable({"a": "http://127.0.0.1:1/t/status"}) == {"a": "http://127.0.0.1:1/t/status"}


@pytest.mark.usefixtures("hub")
def test_a_link_goes_through_the_server_where_it_can(monkeypatch):
    url = "http://127.0.0.1:8787/token/status"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert reachable({"a": url}) == {"a": url}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (proxied,) = reachable({"a": url}).values()
    assert proxied.startswith("/user/ada/")
    assert proxied.endswith("/token/status")
    other = "https://example.org:1/x"
    assert reachable({"a": other}) == {"a": other}


class Cluster:
    """What progress looks at."""

    name = "env"
    state = "starting"

    class environment:  # noqa: N801
        class engine:  # noqa: N801
            name = "dask"

    def __init__(self, *states):
        self.states = states

    def members(self):
        roles = ["scheduler", "worker", "driver"]
        return [{"role": r, "state": s} for r, s in zip(roles, self.states, strict=False)]

    def summary(self):
        return "1 worker"


def test_progress_is_silent_until_it_takes_long(capsys):
    progress = StartProgress(Cluster("ready", "starting", "starting"), 1.0)
    progress.tick(0.5)
    assert capsys.readouterr().out == ""
    progress.tick(1.5)
    progress.tick(1.6)
    said = capsys.readouterr().out
    assert said == "env: starting dask, 1 of 3 processes, waiting for worker\n"


def test_progress_of_what_was_quick_is_never_shown(capsys):
    cluster = Cluster("ready", "ready", "ready")
    progress = StartProgress(cluster, 1.0)
    cluster.state = "ready"
    progress.tick(5.0)
    assert capsys.readouterr().out == ""
