"""Flyte's files, folders and data frames between notebook and tasks."""

from __future__ import annotations

import pytest

from tests.notebook import notebook

TASKS = """\
import os
import flyte, flyte_jupyter
import pandas as pd
import pyarrow as pa
from flyte.io import DataFrame, Dir, File
env = flyte.TaskEnvironment(name="plain")
other_env = flyte.TaskEnvironment(name="other")

@env.task
async def read(file: File) -> str:
    async with file.open("rb") as opened:
        return bytes(await opened.read()).decode()

@env.task
async def written() -> File:
    with open("made.txt", "w") as opened:
        opened.write("made")
    return await File.from_local("made.txt")

@env.task
async def streamed() -> File:
    file = File.new_remote()
    async with file.open("wb") as opened:
        await opened.write(b"streamed")
    return file

@env.task
async def names(folder: Dir) -> list:
    return sorted([file.name async for file in folder.walk()])

@env.task
async def folder() -> Dir:
    os.makedirs("many", exist_ok=True)
    for name in "ab":
        open(f"many/{name}", "w").close()
    return await Dir.from_local("many")

@env.task
async def frame() -> DataFrame:
    return DataFrame.from_df(pd.DataFrame({"a": [1, 2, 3]}))

@env.task
async def summed(given: DataFrame) -> int:
    return int((await given.open(pd.DataFrame).all())["a"].sum())

@env.task
async def rows(given: DataFrame) -> int:
    return (await given.open(pa.Table).all()).num_rows

@other_env.task
async def chain() -> list:
    return [await read(await written()), await names(await folder()), await summed(await frame())]
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    with notebook(tmp_path_factory.mktemp("data"), TASKS) as book:
        yield book


@pytest.mark.parametrize(("made", "text"), [("written", "made"), ("streamed", "streamed")])
def test_a_file_goes_both_ways(book, made, text):
    book.run(f"file = await flyte_jupyter.run({made})")
    book.run("async with file.open('rb') as opened: here = bytes(await opened.read()).decode()")
    assert book.value("here") == text
    assert book.value("await flyte_jupyter.run(read, file)") == text


def test_a_file_of_the_notebooks_is_read(book):
    book.run("with open('own.txt', 'w') as opened: _ = opened.write('own')")
    assert book.value("await flyte_jupyter.run(read, File(path='own.txt'))") == "own"


@pytest.mark.parametrize("make", ["File.from_local_sync", "await File.from_local"])
def test_a_file_that_is_made_in_the_notebook_needs_no_initialization(book, make):
    book.run("with open('own.txt', 'w') as opened: _ = opened.write('own')")
    assert book.value(f"await flyte_jupyter.run(read, {make}('own.txt'))") == "own"


def test_what_needs_a_deployment_still_says_that_there_is_none(book):
    book.run("File.from_local_sync(__import__('sys').executable)")
    assert "has not been initialized" in book.fail("flyte.deploy(env)").value


def test_a_folder_goes_both_ways(book):
    book.run("many = await flyte_jupyter.run(folder)")
    assert book.value("sorted([file.name async for file in many.walk()])") == ["a", "b"]
    assert book.value("await flyte_jupyter.run(names, many)") == ["a", "b"]


def test_a_data_frame_goes_both_ways(book):
    book.run("made = await flyte_jupyter.run(frame)")
    assert book.value("int((await made.open(pd.DataFrame).all())['a'].sum())") == 6
    assert book.value("await flyte_jupyter.run(summed, made)") == 6
    own = "DataFrame.from_df(pd.DataFrame({'a': [4, 5]}))"
    assert book.value(f"await flyte_jupyter.run(summed, {own})") == 9


def test_a_data_frame_is_opened_as_another_type(book):
    own = "DataFrame.from_df(pd.DataFrame({'a': [4, 5]}))"
    assert book.value(f"await flyte_jupyter.run(rows, {own})") == 2


def test_they_go_from_task_to_task(book):
    assert book.value("await flyte_jupyter.run(chain)") == ["made", ["a", "b"], 6]
