"""Completion, through the shell's own completer."""

from __future__ import annotations

import pytest

from flyte_jupyter.engines.options import is_installed, options_of
from flyte_jupyter.engines.registry import engines
from flyte_jupyter.errors import FlyteJupyterError
from flyte_jupyter.magics.completion import completions
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
    assert found == {"dask", "databricks", "plain", "pytorch", "ray", "spark"}


DASK = {"--workers", "--worker-cpu", "--worker-memory"}


@pytest.mark.parametrize("named", ["--plugin dask", "--plugin=dask", "--plugin ray --plugin dask"])
def test_options_of_an_engine(idle, named):
    found = complete(idle, f"%flyte env e {named} ")
    assert set(found) == {*DASK, "--plugin", "--help", "-h"}
    assert set(complete(idle, f"%flyte env e {named} --worker-")) == DASK - {"--workers"}


@pytest.mark.parametrize("named", ["", "--plugin plain", "--plugin nonsense", "--plugin"])
def test_no_options_of_an_engine_that_is_not_named_or_has_none(idle, named):
    assert not set(complete(idle, f"%flyte env e {named} ")) & DASK


def test_an_option_of_an_engine_is_offered_until_it_is_there(idle):
    line = "%flyte env e --plugin spark --workers 2 --conf spark.app.id=x "
    found = set(complete(idle, line))
    assert "--workers" not in found
    assert {"--conf", "--worker-cpu"} <= found, "--conf may be repeated"
    assert "--workers" not in complete(idle, "%flyte env e --plugin dask --workers=2 ")


@pytest.mark.parametrize(
    "line",
    [
        "%flyte env e --plugin dask --workers ",
        "%flyte env e --plugin dask --workers=",
        "%flyte runs -n ",
        "%flyte logs -n ",
        "%flyte scale env 2 --group ",
        "%%flyte_task env --timeout ",
    ],
)
def test_nothing_is_offered_for_a_value_of_the_users_own(idle, line):
    assert not completions(idle._flyte_jupyter.session, line, "")


@pytest.mark.parametrize("name", sorted(engines()))
def test_the_options_of_an_engine_are_those_that_it_takes(name):
    engine = engines()[name]
    if not is_installed(engine):
        pytest.skip(f"{name} is not installed")
    for option in options_of(engine):
        said = ""
        try:
            engine.configure({option: "?"})
        except FlyteJupyterError as refused:
            said = str(refused)
        assert "no option" not in said, "its value may be refused, its name not"
    with pytest.raises(FlyteJupyterError, match=r"no (option )?--zzz") as caught:
        engine.configure({"zzz": "1"})
    named = {word.strip(".,") for word in caught.value.fix.split() if word.startswith("--")}
    assert named - {"--plugin"} <= {f"--{option}" for option in options_of(engine)}


def test_variables_as_inputs(idle):
    idle.user_ns["measured"] = 1
    for option in ("-i", "--also"):
        assert "measured" in complete(idle, f"%%flyte_task env {option} meas")


def test_environments_declared_by_the_magic(idle):
    idle.run_line_magic("flyte", "env by-magic")
    assert complete(idle, "%flyte up by-") == ["by-magic"]
    del idle._flyte_jupyter.session.declared["by-magic"]


def test_images_and_builders_of_the_verb_that_builds(idle):
    import flyte

    idle.user_ns["base_image"] = flyte.Image.from_debian_base()
    try:
        assert {"base_image", "dask_env"} <= set(complete(idle, "%flyte build "))
        assert "base_image" not in complete(idle, "%flyte up ")
        assert complete(idle, "%flyte build dask_env --builder lo") == ["local", "local-podman"]
    finally:
        del idle.user_ns["base_image"]


def test_an_environment_may_follow_an_options_value(idle):
    assert "dask_env" in complete(idle, "%%flyte_task --timeout 5 das")
    assert "dask_env" in complete(idle, "%flyte logs -n 5 das")
    assert "dask_env" not in complete(idle, "%%flyte_task --bg das"), "it would name the run"


@pytest.mark.parametrize("line", ["%flyte nonsense ", "%flyte up nope nope ", "%flyte \x00"])
def test_nonsense_completes_to_nothing_and_raises_nothing(idle, line):
    assert not set(complete(idle, line)) & set(VERBS)
