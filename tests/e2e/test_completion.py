"""Completion as the page asks for it."""

from __future__ import annotations


def test_verbs_are_completed(plain):
    assert "status" in plain.complete("%flyte sta")
    assert {"up", "down", "scale"} <= set(plain.complete("%flyte "))


def test_environments_are_completed(plain):
    assert {"env", "plain"} <= set(plain.complete("%flyte up "))
    assert "env" in plain.complete("%%flyte_task en")


def test_options_are_completed(plain):
    assert "--timeout" in plain.complete("%%flyte_task env --time")


def test_runs_are_completed(plain):
    plain.task("1", "--name counted")
    run = plain.run("%flyte runs -n 1").result.splitlines()[1].split()[0]
    assert run in plain.complete(f"%flyte logs {run[:-1]}")


def test_python_in_a_task_cell_is_completed(plain):
    plain.run("some_long_name = 1")
    assert "some_long_name" in plain.complete("%%flyte_task env\nsome_long")
