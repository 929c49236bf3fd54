"""Agents whose tools are tasks, against a server that speaks the API."""

from __future__ import annotations

import pytest

from tests.chat_service import ChatService
from tests.notebook import Notebook, notebook

pytest.importorskip("agents")

KEY = "sk-never-shown"
DECLARE = """\
import os, flyte, flyte_jupyter
env = flyte.TaskEnvironment(name="agent", secrets=[flyte.Secret(key="openai-api-key",
    as_env_var="OPENAI_API_KEY")], env_vars={"OPENAI_BASE_URL": ADDRESS})
tool_env = flyte.TaskEnvironment(name="tools")

@tool_env.task
async def add(x: int, y: int) -> int:
    '''Add two numbers.'''
    print("adding", x, y)
    return x + y

@tool_env.task
def shout(text: str) -> str:
    '''Say it loudly.'''
    return text.upper()
"""
CHAT = """
    from agents import set_default_openai_api, set_trace_processors
    set_default_openai_api("chat_completions")
"""
OLDER = (
    """\
from flyteplugins.openai.agents import function_tool
from agents import Agent, Runner

add_tool, shout_tool = function_tool(add), function_tool(shout)

@env.task
async def ask(question: str) -> str:"""
    + CHAT
    + """
    set_trace_processors([])
    agent = Agent(name="helper", model="any", tools=[add_tool, shout_tool])
    result = await Runner.run(agent, question)
    return result.final_output
"""
)
NEWER = (
    """\
from flyteplugins.agents.openai import run_agent

@env.task(report=True)
async def ask(question: str) -> str:"""
    + CHAT
    + """
    return await run_agent(question, tools=[add, shout], model="any")
"""
)


@pytest.fixture(scope="module")
def service():
    service = ChatService({"add": {"x": 2, "y": 3}, "shout": {"text": "hello"}})
    yield service
    service.close()


@pytest.fixture(scope="module")
def book(service, tmp_path_factory) -> Notebook:
    declare = DECLARE.replace("ADDRESS", repr(service.address))
    folder = tmp_path_factory.mktemp("agents")
    with notebook(folder, declare, env={"OPENAI_API_KEY": KEY}) as book:
        yield book


@pytest.mark.parametrize("declare", [OLDER, NEWER], ids=["openai", "agents-openai"])
def test_tools_run_on_the_cluster_of_their_environment(book, service, declare):
    book.run(declare)
    cell = book.run("flyte_jupyter.run(ask, 'What is it?').result()")
    assert cell.result == "'Tools said: 5, HELLO'"
    assert "adding 2 3" in cell.stdout
    runs = book.run("%flyte runs -n 3").shown
    assert "└ add-" in runs
    assert "└ shout-" in runs
    assert runs.count("tools") == 2


def test_steps_of_an_agent_are_shown_below_the_cell(book):
    book.run(NEWER)
    cell = book.run("flyte_jupyter.run(ask, 'What is it?').result()")
    shown = str(cell.of("display_data", "update_display_data"))
    for step in ("OpenAI agent", "add", "shout", "generation"):
        assert step in shown


def test_the_key_reaches_the_service_and_nothing_else(book, service):
    assert service.keys == {f"Bearer {KEY}"}
    assert KEY not in "".join(cell.shown for cell in book.cells.values())


PLAIN = (
    """import os
from agents import Agent, Runner
os.environ["OPENAI_BASE_URL"] = ADDRESS
if True:"""
    + CHAT
    + """
    set_trace_processors([])
agent = Agent(name="helper", model="any", tools=[as_tool(add), as_tool(shout)])
result = await Runner.run(agent, "What is it?")
result.final_output
"""
)


@pytest.mark.parametrize(
    "tool", ["openai.agents import function_tool", "agents.openai import tool"]
)
def test_tools_of_an_agent_in_a_plain_cell_run_there_too(book, service, tool):
    book.run(f"from flyteplugins.{tool} as as_tool")
    before = book.value("len(flyte_jupyter.session().runs)")
    cell = book.run(PLAIN.replace("ADDRESS", repr(service.address)))
    assert cell.result == "'Tools said: 5, HELLO'"
    assert "adding 2 3" in cell.stdout
    ran = book.value(
        f"sorted(r.id.rpartition('-')[0] for r in flyte_jupyter.session().runs[{before}:])"
    )
    assert ran == ["add", "shout"]
