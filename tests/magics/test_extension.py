"""Loading, unloading and reloading: nothing is there twice, and nothing stays behind."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import flyte_jupyter
from flyte_jupyter.magics.verbs import VERBS
from tests.magics.test_completion import complete

pytestmark = pytest.mark.filterwarnings("ignore:.*Completer.complete:PendingDeprecationWarning")


@pytest.fixture
def bare():
    """A shell without the extension."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryAccessor.enabled = False
    config.FlyteJupyter.prewarm = False
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


def traces(shell):
    """Return whatever of this package a shell holds, by where it holds it."""
    hooks = shell.strdispatchers["complete_command"]
    chains = [*hooks.strs.values(), *hooks.regexs.values()]
    held = {
        "completers": [hook.__func__ for chain in chains for _, hook in chain],
        "events": shell.events.callbacks["post_run_cell"],
        "configurables": shell.configurables,
        "registry": list(shell.magics_manager.registry.values()),
        "line magics": list(shell.magics_manager.magics["line"].values()),
        "cell magics": list(shell.magics_manager.magics["cell"].values()),
        "attributes": list(vars(shell).values()),
    }
    return {place: [x for x in things if _ours(x)] for place, things in held.items()}


def _ours(thing):
    owner = getattr(thing, "__self__", thing)
    return type(owner).__module__.startswith("flyte_jupyter.")


def test_unloading_leaves_nothing_of_the_extension(bare):
    bare.run_line_magic("load_ext", "flyte_jupyter")
    assert all(traces(bare).values()), "else this test looks in the wrong places"
    bare.run_line_magic("unload_ext", "flyte_jupyter")
    assert not any(traces(bare).values())
    assert not set(complete(bare, "%flyte ")) & set(VERBS)
    assert complete(bare, "%flyte_t") == complete(bare, "%%flyte_t") == []


def test_other_completers_stay(bare):
    bare.set_hook("complete_command", lambda *_: ["mine"], re_key=r"\s*%flyte_mine\b.*")
    bare.run_line_magic("load_ext", "flyte_jupyter")
    bare.run_line_magic("unload_ext", "flyte_jupyter")
    assert complete(bare, "%flyte_mine m") == ["mine"]
    assert "json" in complete(bare, "import jso")


def test_reloading_registers_nothing_twice(bare):
    bare.run_line_magic("load_ext", "flyte_jupyter")
    once = {place: len(things) for place, things in traces(bare).items()}
    for _ in range(3):
        bare.run_line_magic("reload_ext", "flyte_jupyter")
    assert {place: len(things) for place, things in traces(bare).items()} == once
    assert complete(bare, "%flyte st") == ["status"]
    bare.run_line_magic("unload_ext", "flyte_jupyter")
    assert not any(traces(bare).values())


def test_loading_and_unloading_can_be_asked_for_again(bare):
    flyte_jupyter.unload_ipython_extension(bare)
    flyte_jupyter.load_ipython_extension(bare)
    before = bare._flyte_jupyter
    flyte_jupyter.load_ipython_extension(bare)
    assert bare._flyte_jupyter is before
    flyte_jupyter.unload_ipython_extension(bare)
    flyte_jupyter.unload_ipython_extension(bare)
    assert not any(traces(bare).values())
