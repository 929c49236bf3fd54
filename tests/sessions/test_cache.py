"""Runs in an environment with a cache."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta

import flyte
import numpy as np
import pytest
from cached_runs import COUNTED, entries, run, settled, submit, with_folder
from flyte import Cache

from flyte_jupyter import CellTask
from tests import leaks


@pytest.fixture
def session(caching, tmp_path):
    return with_folder(caching, tmp_path / "results")


def test_what_ran_before_is_not_run_again(session, tally):
    code, values = "y = x + 1", {"x": 41}
    assert run(session, tally, code, values=values) == (42, "succeeded")
    assert run(session, tally, code, values=values) == (42, "cached")
    assert run(session, tally, code, values={"x": 1}) == (2, "succeeded")
    assert tally.read_text() == ".."
    (line,) = session.said
    assert line.startswith("cell-")
    assert line.endswith("is in cached's cache; nothing ran.")


def test_a_result_is_found_at_once_after_its_run(session):
    array = np.arange(4_000_000.0)
    code = "y = x * n"
    for n in range(5):
        values = {"x": array, "n": n}
        assert submit(session, code, values=values).result(60)[1] == n
        again = submit(session, code, values=values)
        assert again.state == "cached"
        assert again.result()[1] == n


def test_another_process_finds_it(session, tally, tmp_path):
    program = (
        "import sys, flyte\nfrom flyte_jupyter import *\n"
        "def helper(x):\n    return x in {'a', 'b', 'c'}\n"
        f"config = FlyteJupyter(cache_folder={session.config.cache_folder!r})\n"
        "cache = flyte.Cache('auto', ignored_inputs=('tally',))\n"
        "env = flyte.TaskEnvironment(name='e', cache=cache)\n"
        "s = Session(config, {}, print)\n"
        "values = {'known': helper, 'words': {'a', 'x', 'y'}, 'tally': sys.argv[1]}\n"
        f"code = {COUNTED + 'y = sorted(map(known, words))'!r}\n"
        "code += '\\nimport fj_a, fj_b, fj_c, fj_d, fj_e'\n"
        "task = CellTask(code, returns=('y',), values=values)\n"
        "run = s.submit(env, task)\nprint(run.result(60), run.state, list(s.clusters))\ns.close()"
    )

    for name in "abcde":
        (tmp_path / f"fj_{name}.py").write_text("")

    def elsewhere(seed):
        script = tmp_path / f"script_{seed}.py"
        script.write_text("\n" * seed + program)
        done = subprocess.run(
            [sys.executable, str(script), str(tally)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert elsewhere(1) == "[False, False, True] succeeded ['e']\n"
    assert elsewhere(2).endswith("nothing ran.\n[False, False, True] cached []\n")
    assert tally.read_text() == "."


def test_override_runs_anew_and_replaces_what_is_kept(session, tally):
    code = f"y = pathlib.Path({str(tally)!r}).read_text()"
    assert run(session, tally, code) == (".", "succeeded")
    assert run(session, tally, code, "override") == ("..", "succeeded")
    assert run(session, tally, code) == ("..", "cached")
    assert len(entries(session)) == 1


def test_an_old_result_is_made_again(session, tally):
    def policy(**age):
        return Cache("auto", ignored_inputs=("tally",), **age)

    assert run(session, tally)[1] == "succeeded"
    settled(session)
    (name,) = entries(session)
    path = os.path.join(session.config.cache_folder, name)
    os.utime(path, (0, os.stat(path).st_mtime - 100))
    assert run(session, tally, cache=policy(max_age=timedelta(hours=1)))[1] == "cached"
    assert run(session, tally, cache=policy(max_age=0))[1] == "cached", "Flyte's zero is no limit"
    assert run(session, tally, cache=policy(max_age=60))[1] == "succeeded"
    assert run(session, tally, cache=policy(max_age=60))[1] == "cached"


def test_the_oldest_result_makes_room(session, tally):
    session.config.cache_limit = 250_000
    code = "import numpy as np\ny = np.full(100_000, n, np.uint8)"
    for n in range(3):
        run(session, tally, code, values={"n": n})
        settled(session)
    assert len(entries(session)) == 2
    assert [run(session, tally, code, values={"n": n})[1] for n in (2, 1)] == ["cached"] * 2
    assert run(session, tally, code, values={"n": 0})[1] == "succeeded"


def test_a_result_beyond_the_limit_is_returned_and_said_not_to_be_kept(session, tally):
    session.config.cache_limit = 1000
    value, state = run(session, tally, "y = bytes(5000)")
    assert (len(value), state) == (5000, "succeeded")
    assert entries(session) == []
    (line,) = session.said
    assert "its result is not cached: it is too large: 4.9 KiB" in line


def test_a_corrupted_entry_is_made_again(session, tally):
    run(session, tally, "y = list(range(1000))")
    settled(session)
    (name,) = entries(session)
    path = os.path.join(session.config.cache_folder, name)
    with open(path, "r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"##########")
    assert run(session, tally, "y = list(range(1000))")[1] == "succeeded"
    assert run(session, tally, "y = list(range(1000))")[1] == "cached"


@pytest.mark.parametrize("change", [lambda file: file.unlink(), lambda file: file.write_text("")])
def test_a_result_whose_file_is_gone_or_another_is_made_again(session, tally, tmp_path, change):
    place = tmp_path / "made.txt"
    code = "from flyte.io import File\npathlib.Path(place).write_text('made')\n"
    code += "y = {'file': File(path=place)}"
    states = [run(session, tally, code, values={"place": str(place)})[1] for _ in range(2)]
    change(place)
    value, state = run(session, tally, code, values={"place": str(place)})
    assert [*states, state] == ["succeeded", "cached", "succeeded"]
    assert value["file"].path == str(place)
    assert place.read_text() == "made"


def test_what_the_user_does_to_a_result_does_not_reach_the_cache(session):
    code = "import numpy as np\ny = np.zeros(3_000_000)"
    first = submit(session, code).result(60)
    first += 1
    again = submit(session, code)
    assert again.state == "cached"
    assert not again.result().any()


def test_equal_runs_that_are_to_be_serialized_wait_for_the_first(session, tally, tmp_path):
    """The first is held up until the others have begun to wait."""
    cache, go = Cache("auto", serialize=True, ignored_inputs=("tally",)), tmp_path / "go"
    code = COUNTED + f"import time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
    code += "\nif len(pathlib.Path(tally).read_text()) < 2: raise ValueError\ny = 42"
    values = {"tally": str(tally)}
    fails, first, second, third = (submit(session, code, cache, values=values) for _ in range(4))
    go.touch()
    with pytest.raises(ValueError, match=r"^$"):
        fails.result(60)
    assert [run.result(60) for run in (first, second, third)] == [42] * 3
    assert [run.state for run in (first, second, third)] == ["succeeded", "cached", "cached"]
    assert tally.read_text() == ".."
    assert "not honoured" not in "".join(session.said)


def test_a_run_that_waits_for_an_equal_one_can_be_stopped(session, tally, tmp_path):
    cache, go = Cache("auto", serialize=True), tmp_path / "go"
    code = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
    first, second = (submit(session, code + "\ny = 1", cache) for _ in range(2))
    second.cancel()
    with pytest.raises(KeyboardInterrupt):
        second.result(60)
    go.touch()
    assert (first.result(60), second.state) == (1, "cancelled")


def test_refs_and_cells_without_outputs_are_not_cached(session, tally):
    for _ in range(2):
        assert run(session, tally, "y = 1", returns=(), keeps=("y",))[1] == "succeeded"
        assert run(session, tally, "y = 1", returns=())[1] == "succeeded"
        assert run(session, tally, "y = 1", cache="disable")[1] == "succeeded"
    assert entries(session) == []


def test_a_run_that_fails_is_not_cached(session, tally):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(session, tally, "y = 1 / 0")
    assert tally.read_text() == ".."
    assert entries(session) == []


def test_a_run_that_an_interrupt_cut_short_is_not_cached(session, tally):
    code = "import time\nprint('here', flush=True)\ny = 'cut'\n"
    code += "try: time.sleep(600)\nexcept KeyboardInterrupt: pass"
    cut = submit(session, code)
    assert leaks.until(cut.log)
    cut.cancel()
    assert cut.result(60) == "cut"
    assert entries(session) == []


async def test_a_cached_run_can_be_awaited(session, tally):
    assert run(session, tally)[1] == "succeeded"
    declared = flyte.TaskEnvironment(name="cached", cache=Cache("auto", ignored_inputs=("tally",)))
    task = CellTask(COUNTED + "y = 1", values={"tally": str(tally)}, returns=("y",))
    again = session.submit(declared, task)
    assert await asyncio.wait_for(again, 10) == 1
    assert again.state == "cached"
    assert again.log() == ""


# -- folders that are not to be trusted -----------------------------------------------------------


def test_a_loose_folder_is_refused_in_one_line_and_the_cell_runs(session, tally, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    folder.chmod(0o777)
    for _ in range(2):
        assert run(session, tally) == (1, "succeeded")
    assert entries(session) == []
    assert session.said == [
        f"the cache folder is not used: other users can write to {folder} (mode 777). "
        f"Type: !chmod 700 '{folder}'"
    ]
    folder.chmod(0o700)
    assert run(session, tally)[1] == "succeeded"
    assert run(session, tally)[1] == "cached"


def test_a_loose_result_is_said_and_made_again(session, tally):
    run(session, tally)
    settled(session)
    (name,) = entries(session)
    path = os.path.join(session.config.cache_folder, name)
    os.chmod(path, 0o666)
    assert run(session, tally)[1] == "succeeded"
    assert session.said == [
        "a cached result is not used, and is made again: other users can write to it: " + path
    ]
    assert run(session, tally)[1] == "cached"


def test_a_result_that_cannot_be_written_is_said_in_one_line(session, tally, tmp_path):
    (tmp_path / "file").write_text("")
    session.config.cache_folder = str(tmp_path / "file" / "results")
    assert run(session, tally) == (1, "succeeded")
    settled(session)
    (line,) = session.said
    assert line == f"the cache folder is not used: {session.config.cache_folder} is no folder. " + (
        "Choose a folder of your own: %config FlyteJupyter.cache_folder = '...'"
    )


def test_a_disk_that_is_full_costs_the_result_and_not_the_run(session, tally, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flyte_jupyter.sessions.result_folder._write", full)
    assert run(session, tally) == (1, "succeeded")
    settled(session)
    (line,) = session.said
    assert line.endswith(": its result is not cached: [Errno 28] No space left on device")
    assert entries(session) == []
