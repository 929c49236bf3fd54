from __future__ import annotations

import pytest

from flyte_jupyter.cells.hints import Hints


@pytest.fixture
def hints():
    hints = Hints()
    hints.note({"model", "scores"}, {"scores"}, "dask_env")
    return hints


def test_a_name_that_stayed_in_its_cell_is_one_line_with_both_ways_out(hints):
    assert hints.hint("model") == (
        "`model` was bound in a task cell of dask_env and stayed there: return it with "
        "`-o model`, or keep it there as a ref with `-r model`."
    )


def test_names_that_were_returned_or_are_unknown_have_no_hint(hints):
    assert hints.hint("scores") is None
    assert hints.hint("other") is None


def test_the_last_environment_that_bound_a_name_is_the_one_named(hints):
    hints.note({"model"}, (), "ray_env")
    assert "ray_env" in hints.hint("model")


def test_a_name_is_forgotten_once_the_notebook_has_it(hints):
    hints.forget(["model", "unknown"])
    assert hints.hint("model") is None


def test_a_name_returned_by_a_later_cell_is_forgotten(hints):
    hints.note({"model"}, {"model"}, "dask_env")
    assert hints.hint("model") is None


def test_what_a_run_in_the_background_returns_is_in_the_run(hints):
    hints.note_coming(["model"], "job")
    assert hints.hint("model") == (
        "`model` is a value of job, a run in the background: its result() has it."
    )
    hints.forget(["model"])
    assert hints.hint("model") is None
