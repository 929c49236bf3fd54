"""Completion, through the shell's own completer."""

from __future__ import annotations

import pytest

from flyte_jupyter.magics.verbs import VERBS

pytestmark = pytest.mark.filterwarnings("ignore:.*Completer.complete:PendingDeprecationWarning")


def complete(shell, line: str) -> list[str]:
    _, matches = shell.complete(line.rpartition(" ")[2], line, len(line))
    return matches


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_verbs(idle, verb):
    assert verb in complete(idle, f"%flyte {verb[:-1]}")


def test_all_verbs(idle):
    assert set(VERBS) <= set(complete(idle, "%flyte "))


def test_only_what_begins_so(idle):
    assert complete(idle, "%flyte st") == ["status"]


@pytest.mark.parametrize("line", ["%flyte up ", "%flyte status ", "%%flyte_task ", "%flyte logs "])
def test_environments_by_variable_and_by_name(idle, line):
    assert {"env", "dask_env", "plain-env", "dask-env"} <= set(complete(idle, line))


def test_an_environment_that_is_begun(idle):
    assert complete(idle, "%%flyte_task das") == ["dask-env", "dask_env"]
    assert complete(idle, "%flyte scale das") == ["dask-env", "dask_env"]


def test_no_second_environment(idle):
    assert "env" not in complete(idle, "%%flyte_task env ")


def test_options_of_the_cell_magic(idle):
    assert complete(idle, "%%flyte_task env --ti") == ["--timeout"]
    assert {"--inputs", "--outputs", "--refs", "--bg"} <= set(complete(idle, "%%flyte_task env --"))


def test_options_of_a_verb(idle):
    assert "--plugin" in complete(idle, "%flyte env e --pl")
    assert complete(idle, "%flyte runs --h") == ["--help"]


def test_engines(idle):
    found = set(complete(idle, "%flyte env e --plugin "))
    assert found == {"dask", "plain", "pytorch", "ray", "spark"}


def test_variables_as_inputs(idle):
    idle.user_ns["measured"] = 1
    assert "measured" in complete(idle, "%%flyte_task env -i meas")


def test_environments_declared_by_the_magic(idle):
    idle.run_line_magic("flyte", "env by-magic")
    assert complete(idle, "%flyte up by-") == ["by-magic"]
    del idle._flyte_jupyter.session.declared["by-magic"]


@pytest.mark.parametrize("line", ["%flyte nonsense ", "%flyte up nope nope ", "%flyte \x00"])
def test_nonsense_completes_to_nothing_and_raises_nothing(idle, line):
    assert not set(complete(idle, line)) & set(VERBS)
