"""What cannot be done is said in one clear line, and nothing is started for it."""

from __future__ import annotations

import importlib.util

import flyte
import pytest

from flyte_jupyter.errors import FlyteJupyterError

CELLS = {
    "no environment": ("", "1", "required: ENV"),
    "unknown environment": ("nope", "1", "no environment is called 'nope'"),
    "mistyped environment": ("dask_emv", "1", "Did you mean 'dask_env'?"),
    "mistyped name": ("plain-emv", "1", "Did you mean 'plain-env'?"),
    "not an environment": ("number", "1", "'number' is not a task environment: it is a int"),
    "unknown option": ("env --frobnicate", "1", "unrecognized arguments: --frobnicate"),
    "mistyped option": ("env --capturre", "1", "Did you mean --capture?"),
    "two environments": ("env other", "1", "unrecognized arguments: other"),
    "unclosed quote": ("env -o 'x", "1", "no closing quotation"),
    "-o without a name": ("env -o", "x = 1", "-o/--outputs: expected one argument"),
    "-o of no name": ("env -o a-b", "1", "'a-b' is not a variable name"),
    "-o of nothing": ("env -o ,", "1", "it names no variable"),
    "-o of a name never bound": ("env -o zzz", "x = 1", "the cell never binds `zzz`: it binds x"),
    "-r of a name never bound": ("env -r zzz", "1", "never binds `zzz`: it binds nothing"),
    "-o and -r of one name": ("env -o x -r x", "x = 1", "`x` is asked for twice"),
    "-i of a missing name": ("env -i numbr", "1", "Did you mean `number`?"),
    "-i of nothing like it": ("env -i qqqqq", "1", "no variable of that name"),
    "--timeout of a word": ("env --timeout soon", "1", "'soon' is not a positive number"),
    "--timeout of zero": ("env --timeout 0", "1", "'0' is not a positive number"),
    "--timeout below zero": ("env --timeout=-1", "1", "'-1' is not a positive number"),
    "--timeout of infinity": ("env --timeout inf", "1", "'inf' is not a positive number"),
    "--timeout of nan": ("env --timeout nan", "1", "'nan' is not a positive number"),
    "--retries of a word": ("env --retries often", "1", "'often' is not a whole number"),
    "--retries below zero": ("env --retries=-1", "1", "'-1' is not a whole number"),
    "--bg of no name": ("env --bg 1x", "1", "--bg takes a variable name"),
    "a task cell in a task cell": ("env", "%%flyte_task env\n1", "cannot hold another"),
    "a secret": ("env", "len(api_key)", "`api_key` was not sent"),
    "a value that cannot travel": ("env", "lock", "`lock` (_thread.lock) cannot be pickled"),
    "a secret without a value": ("secretive", "1", "'no-such-key' of secretive has no value"),
    "no workers": ("none_env", "1", "needs at least one worker"),
    "workers below zero": ("negative_env", "1", "needs at least one worker"),
    "an engine that nobody has": ("odd_env", "1", "no engine runs a Odd config"),
    "memory that is no size": ("wordy_env", "1", "memory must be a positive size"),
}

LINES = {
    "unknown verb": ("frobnicate", "has no verb frobnicate. There are env, up,"),
    "mistyped verb": ("statsu", "Did you mean 'status'?"),
    "a verb in capitals": ("UP", "has no verb UP"),
    "env of a bad name": ("env 1x", "snake_case or kebab-case: 1x"),
    "env of a name with capitals": ("env A", "snake_case or kebab-case: A"),
    "unknown plugin": ("env e --plugin spork", "no engine is called 'spork'"),
    "mistyped plugin": ("env e --plugin dassk", "Did you mean 'dask'?"),
    "workers 0": ("env e --plugin dask --workers 0", "whole number of at least 1: '0'"),
    "workers -1": ("env e --plugin dask --workers=-1", "whole number of at least 1: '-1'"),
    "workers many": ("env e --plugin dask --workers many", "at least 1: 'many'"),
    "workers superscript": ("env e --plugin dask --workers ²", "at least 1: '²'"),
    "workers of nothing": ("env e --plugin dask --workers", "--workers takes a value"),
    "memory many": ("env e --plugin dask --worker-memory much", "must be a positive size: 'much'"),
    "cpu of a word": ("env e --plugin dask --worker-cpu few", "cpu must be a positive number"),
    "option of another engine": ("env e --workers 2", "a plain environment has no --workers"),
    "unknown engine option": ("env e --plugin dask --gpus 2", "Dask has no option --gpus"),
    "a word too many": ("env e f", "'f' is not an option"),
    "up of nothing": ("up", "required: ENV"),
    "up of an unknown environment": ("up nope", "no environment is called 'nope'"),
    "down of an unknown environment": ("down nope", "no environment is called 'nope'"),
    "down of what is not up": ("down env", "plain-env has no cluster"),
    "scale of what is not up": ("scale dask_env 2", "dask-env has no cluster"),
    "scale to nothing": ("scale dask_env", "required: N"),
    "scale to zero": ("scale dask_env 0", "dask-env has no cluster"),
    "scale below zero": ("scale dask_env -- -1", "'-1' is not a whole number of at least 0"),
    "scale to a word": ("scale dask_env two", "'two' is not a whole number of at least 0"),
    "restart of what is not up": ("restart env", "plain-env has no cluster"),
    "status of an unknown environment": ("status nope", "no environment is called 'nope'"),
    "logs of nothing": ("logs", "nothing has run yet"),
    "logs of an unknown run": ("logs cell-99", "no environment is called 'cell-99'"),
    "logs of what is not up": ("logs env", "plain-env has no cluster"),
    "runs of a word": ("runs -n all", "'all' is not a whole number"),
    "dashboard of what is not up": ("dashboard env", "plain-env has no cluster"),
    "doctor with an argument": ("doctor me", "unrecognized arguments: me"),
    "an unknown option of a verb": ("status --verbose", "unrecognized arguments: --verbose"),
    "an unclosed quote": ("status 'env", "no closing quotation"),
}


@pytest.fixture(autouse=True)
def _variables(shell):
    import threading

    from flyteplugins.dask import Dask, WorkerGroup

    class Odd:
        pass

    def dask(name, **group):
        group = WorkerGroup(**{"number_of_workers": 1, **group})
        return flyte.TaskEnvironment(name=name, plugin_config=Dask(workers=group))

    shell.user_ns.update(
        number=1,
        api_key="sk-never-shown",
        lock=threading.Lock(),
        secretive=flyte.TaskEnvironment(name="secretive", secrets="no-such-key"),
        none_env=dask("none-env", number_of_workers=0),
        negative_env=dask("negative-env", number_of_workers=-1),
        odd_env=flyte.TaskEnvironment(name="odd-env", plugin_config=Odd()),
        wordy_env=dask("wordy-env", resources=flyte.Resources(memory="much")),
    )


@pytest.mark.parametrize(("line", "cell", "said"), CELLS.values(), ids=CELLS)
def test_a_bad_task_cell(idle, line, cell, said):
    with pytest.raises(FlyteJupyterError) as caught:
        idle.run_cell_magic("flyte_task", line, cell)
    _check(str(caught.value), said)


@pytest.mark.parametrize(("line", "said"), LINES.values(), ids=LINES)
def test_a_bad_line(idle, line, said):
    with pytest.raises(FlyteJupyterError) as caught:
        idle.run_line_magic("flyte", line)
    _check(str(caught.value), said)


def _check(message: str, said: str) -> None:
    assert said in message
    assert "\n" not in message
    assert "never-shown" not in message


def test_an_error_is_shown_without_frames(idle, capsys):
    idle.run_cell("%flyte statsu")
    shown = capsys.readouterr().out + capsys.readouterr().err
    assert "Did you mean 'status'?" in shown
    assert "Traceback" not in shown
    assert 'File "' not in shown


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [
        ("def broken(:\n    pass", 2, "def broken(:"),
        ("x = 1\n\nx = = 2", 4, "x = = 2"),
        ("if True:\nprint(1)", 3, "print(1)"),
        ("print('unclosed)", 2, "print('unclosed)"),
        ("return 1", 2, "return 1"),
        ("x = 1\n  y = 2", 3, "y = 2"),
    ],
)
def test_a_syntax_error_is_shown_as_ipython_shows_it(idle, capsys, body, line, text):
    result = idle.run_cell(f"%%flyte_task env\n{body}")
    shown = capsys.readouterr().out
    assert result.error_in_exec is not None
    assert "Error" in type(result.error_in_exec).__name__
    assert f"line {line}" in shown
    assert text in shown
    assert "flyte_jupyter" not in shown


def test_a_syntax_error_can_be_caught(idle):
    with pytest.raises(FlyteJupyterError, match="invalid syntax"):
        idle.run_cell_magic("flyte_task", "env", "x = = 1")


def declared(engine: str) -> flyte.TaskEnvironment:
    """Return an environment of an engine, as a notebook declares it."""
    plugin = pytest.importorskip(f"flyteplugins.{engine}")
    config = {
        "dask": lambda: plugin.Dask(workers=plugin.WorkerGroup(number_of_workers=1)),
        "ray": lambda: plugin.RayJobConfig(worker_node_config=[]),
        "spark": lambda: plugin.Spark(spark_conf={}),
        "pytorch": lambda: plugin.Elastic(nnodes=1, nproc_per_node=1),
    }[engine]
    return flyte.TaskEnvironment(name="missing-env", plugin_config=config())


def type_in(shell, line: str) -> None:
    """Run one of the magics; below that of a cell there is one."""
    magic, _, rest = line.partition(" ")
    if magic == "%%flyte_task":
        shell.run_cell_magic("flyte_task", rest, "1")
    else:
        shell.run_line_magic("flyte", rest)


@pytest.mark.parametrize(
    "line", ["%flyte env e --plugin {}", "%flyte up missing_env", "%%flyte_task missing_env"]
)
@pytest.mark.parametrize(
    ("engine", "module"),
    [
        ("dask", "distributed"),
        ("dask", "flyteplugins.dask"),
        ("ray", "ray"),
        ("ray", "flyteplugins.ray"),
        ("spark", "pyspark"),
        ("spark", "flyteplugins.spark"),
        ("pytorch", "torch"),
        ("pytorch", "flyteplugins.pytorch"),
    ],
)
def test_what_an_engine_lacks_is_named_with_the_command(idle, monkeypatch, engine, module, line):
    find = importlib.util.find_spec
    idle.user_ns["missing_env"] = declared(engine)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a)
    )
    with pytest.raises(FlyteJupyterError) as caught:
        type_in(idle, line.format(engine))
    _check(str(caught.value), f"engine is not installed: no module named {module!r}. Type: %pip")
    assert f"'flyte-jupyter[{engine}]'" in str(caught.value)
    assert "e" not in idle._flyte_jupyter.session.declared


def test_a_cell_of_blank_lines_takes_nothing_along(idle):
    table = idle.run_cell_magic("flyte_task", "env --capture", "\n\n")
    assert repr(table) == "The cell takes nothing along."
