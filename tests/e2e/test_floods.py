"""A cell that prints far too much: the page sees the beginning and the end, the log has it all."""

from __future__ import annotations

import re

from tests.notebook import task

LINES = 200_000


def test_a_flood_is_cut_and_nothing_of_it_is_lost(plain):
    cell = plain.task(f"for n in range({LINES}):\n    print('line', n)")
    assert cell.stdout.startswith("line 0\nline 1\n")
    assert cell.stdout.endswith(f"line {LINES - 1}\n")
    (notice,) = re.findall(r"\[… ([\d,]+) lines \(([\d.]+) MiB\) are only in (.*) …\]", cell.stderr)
    left_out, size, where = int(notice[0].replace(",", "")), float(notice[1]), notice[2]
    assert 0 < size < 10
    assert cell.stdout.count("\n") + left_out == LINES
    assert len(cell.stdout) < 2 * 2**20
    log = plain.run(where).result
    assert log.count("\n") == LINES - 1
    assert log.endswith(f"line {LINES - 1}")


def test_a_flood_of_a_forked_child_is_cut_and_nothing_of_it_is_lost(plain):
    body = f"""
    import multiprocessing

    def flood():
        for n in range({LINES}):
            print("line", n)

    child = multiprocessing.get_context("fork").Process(target=flood)
    child.start()
    child.join()
    """
    cell = plain.task(body)
    assert len(cell.stdout) < 2 * 2**20
    (where,) = re.findall(r"are only in (.*) …\]", cell.stderr)
    assert plain.run(where).result.splitlines() == [f"line {n}" for n in range(LINES)]


def test_the_last_lines_of_a_log(plain):
    plain.task("for n in range(100): print(n)")
    assert plain.run("%flyte logs -n 3").result == "97\n98\n99"


def test_the_notebook_answers_during_a_flood(plain):
    flood = plain.task("for n in range(2_000_000): print('line', n)", "--bg job")
    plain.until_printed(flood)
    assert plain.value("job.done") is False
    assert plain.value("6 * 7") == 42
    plain.run("job.cancel()")
    assert plain.fail("job.result(30)").name == "KeyboardInterrupt"


def test_a_line_without_an_end_is_cut_too(plain):
    cell = plain.task("print('x' * (4 * 2**20))\nprint('end')")
    assert cell.stdout.endswith("end\n")
    assert len(cell.stdout) < 2 * 2**20


def test_an_interrupt_stops_a_flood(plain):
    cell = plain.submit(task("while True: print('again and again')"))
    plain.until_printed(cell)
    plain.interrupt()
    assert plain.wait(cell).error.name == "KeyboardInterrupt"
    assert plain.task("1").result == "1"


def test_updates_of_one_line_are_not_a_flood(plain):
    cell = plain.task("for n in range(1000): print(n, end='\\r', flush=True)\nprint('done')")
    assert cell.stdout.endswith("done\n")
    assert "only in" not in cell.stderr
