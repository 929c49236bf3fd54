"""Cells of an environment with a cache, in notebooks that are restarted and edited."""

from __future__ import annotations

import pytest

from tests.notebook import notebook

CACHED = "import flyte\nenv = flyte.TaskEnvironment(name='cached_env', cache='auto')"
HELPERS = "WORDS = {'a', 'b', 'c'}\ndef helper(x):\n    return x in WORDS\nclass Pair: pass"
BODY = "print('runs')\npair = Pair()\npair.known = [helper(x) for x in 'axb']"


@pytest.fixture
def book(tmp_path):
    with notebook(tmp_path, CACHED, env={"JUPYTER_DATA_DIR": str(tmp_path / "data")}) as book:
        yield book


def ran(cell):
    """Whether a cell was run, rather than found in the cache."""
    assert ("nothing ran" in cell.stderr) is (cell.stdout == ""), cell.shown
    return cell.stdout == "runs\n"


def test_a_restarted_kernel_finds_what_ran_before(book):
    book.run(HELPERS)
    assert ran(book.task(BODY, "-o pair"))
    book.restart()
    for cell in ("%load_ext flyte_jupyter", "'another execution count'", CACHED, HELPERS):
        book.run(cell)
    assert not ran(book.task(BODY, "-o pair"))
    assert book.value("pair.known") == [True, False, True]
    assert book.processes("driver") == [], "nothing was started for it"


def test_an_edit_of_what_a_cell_uses_has_it_run_again(book, tmp_path):
    (tmp_path / "fj_helpers.py").write_text("def factor():\n    return 2\n")
    book.run("from fj_helpers import factor\ndef double(x):\n    return x * factor()")
    body = "print('runs')\nfrom fj_helpers import factor as inner\ny = double(4) + inner()"
    assert ran(book.task(body, "-o y"))
    assert not ran(book.task("# Said differently.\n" + body, "-o y"))
    assert book.value("y") == 10
    (tmp_path / "fj_helpers.py").write_text("def factor():\n    return 20\n")
    assert ran(book.task(body, "-o y"))
    assert book.value("y") == 100
    book.run("def double(x):\n    # twice\n    return 2 * x * factor()")
    assert ran(book.task(body, "-o y"))
    assert book.value("y") == 180


def test_what_is_not_cached_is_said_in_its_cell(book, tmp_path):
    book.run("%config FlyteJupyter.cache_limit = 1000")
    cell = book.task("print('runs')\nx = bytes(5000)", "-o x")
    assert "its result is not cached: it is too large: 4.9 KiB" in cell.stderr
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    book.run(f"%config FlyteJupyter.cache_folder = {str(loose)!r}")
    cell = book.task("print('runs')\nx = 1", "-o x")
    assert cell.stdout == "runs\n"
    assert f"Type: !chmod 700 '{loose}'" in cell.stderr
    assert book.value("x") == 1


FILES = """if True:
    import flyte_jupyter
    from flyte.io import File
    @env.task
    async def prepare() -> File:
        print("runs")
        file = File.new_remote()
        async with file.open("wb") as opened:
            await opened.write(b"made")
        return file
    @env.task
    async def read(file: File) -> str:
        print("runs")
        async with file.open("rb") as opened:
            return bytes(await opened.read()).decode()"""


def test_files_of_cached_tasks_are_there_and_as_they_are_now(book, tmp_path):
    book.run(FILES)
    prepare = "made = flyte_jupyter.run(prepare).result()"
    assert [ran(book.run(prepare)) for _ in range(2)] == [True, False]
    book.run("%flyte down")
    assert ran(book.run(prepare)), "its file went with the cluster"
    read = "flyte_jupyter.run(read, {}).result()"
    assert book.run(read.format("made")).result == "'made'"
    for text in ("one", "the other"):
        (tmp_path / "own.txt").write_text(text)
        cell = book.run(read.format("File(path='own.txt')"))
        assert (ran(cell), cell.result) == (True, repr(text))
    assert not ran(book.run(read.format("File(path='own.txt')")))
