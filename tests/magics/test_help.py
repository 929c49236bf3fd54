"""Every magic and every verb explains itself, and does nothing else when asked to."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from flyte_jupyter.engines.options import is_installed, options_of
from flyte_jupyter.engines.registry import engines
from flyte_jupyter.magics.verbs import VERBS

NAMES = {"env", "up", "down", "scale", "restart", "status", "logs", "runs", "dashboard", "doctor"}


def test_these_are_the_verbs():
    assert set(VERBS) >= NAMES


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself(idle, capsys, verb, flag):
    assert idle.run_line_magic("flyte", f"{verb} {flag}") is None
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: %flyte {verb}")
    assert VERBS[verb].help.split(".")[0].split(",")[0] in shown


@pytest.mark.parametrize("verb", VERBS)
def test_help_wins_over_anything_else_on_the_line(idle, capsys, verb):
    assert idle.run_line_magic("flyte", f"{verb} env 3 --help") is None
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "help", "--help", "-h"])
def test_the_magic_lists_its_verbs(idle, capsys, line):
    assert idle.run_line_magic("flyte", line) is None
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f"%flyte {name}" in shown


def test_the_cell_magic_explains_itself(idle, capsys):
    assert idle.run_cell_magic("flyte_task", "--help", "raise SystemExit") is None
    shown = capsys.readouterr().out
    for option in (
        "ENV", "--inputs", "--also", "--outputs", "--refs", "--bg", "--timeout", "--retries",
        "--name", "--ranks", "--capture",
    ):  # fmt: skip
        assert option in shown
    assert "%flyte runs" in shown
    assert "%%flyte runs" not in shown


def test_the_engines_and_their_options_are_in_the_help_of_env(idle, capsys):
    idle.run_line_magic("flyte", "env --help")
    lines = capsys.readouterr().out.splitlines()
    for name, engine in engines().items():
        if not is_installed(engine):
            continue
        options = [
            f"    --{option:<14} {about.help}" for option, about in options_of(engine).items()
        ]
        start = lines.index(f"  {name}" if options else f"  {name} takes nothing")
        assert lines[start + 1 : start + 1 + len(options)] == options
    assert all(len(line) <= 100 for line in lines)


def test_an_engine_that_is_not_installed_is_in_the_help_with_the_command(idle, capsys, monkeypatch):
    find = importlib.util.find_spec
    plugin = "flyteplugins.dask"
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == plugin else find(n))
    monkeypatch.delitem(sys.modules, plugin, raising=False)
    idle.run_line_magic("flyte", "env --help")
    shown = capsys.readouterr().out
    assert "dask is not installed, type: %pip install 'flyte-jupyter[dask]'" in shown
    assert "threads of each" not in shown


def test_verbs_that_need_nothing_work_on_nothing(idle):
    assert "plain-env" in repr(idle.run_line_magic("flyte", "env"))
    assert repr(idle.run_line_magic("flyte", "status")) == "No cluster has been started."
    assert repr(idle.run_line_magic("flyte", "runs")) == "Nothing has run."
    assert repr(idle.run_line_magic("flyte", "down")) == "Nothing was up."
    doctor = repr(idle.run_line_magic("flyte", "doctor"))
    assert "distributed" in doctor
    assert "dask, databricks, plain" in doctor


def test_tables_have_a_form_for_a_page(idle):
    html = idle.run_line_magic("flyte", "doctor")._repr_html_()
    assert html.startswith("<table>")
    assert "<script" not in html
