"""What a cell leaves: nothing, unless its widgets are still there to be used."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.e2e.test_comms import opened
from tests.notebook import task

CELL = """
import pathlib, weakref
class Large: pass
large = Large()
weakref.finalize(large, pathlib.Path(freed).touch)
"""
BUTTON = """
import ipywidgets
button = ipywidgets.Button()
"""
PRESSED = {"method": "custom", "content": {"event": "click"}}


@pytest.fixture
def freed(plain, tmp_path):
    """A file that is there once the cell's values have been freed."""
    plain.comms.clear()
    path = tmp_path / "freed"
    plain.run(f"freed = {str(path)!r}")
    return path


def is_freed(path) -> bool:
    return leaks.until(path.exists, 5)


KINDS = {
    "nothing else": "",
    "a function": "def use(): return large",
    "a class": "class Use:\n    def use(self): return self",
    "a result": "large",
    "a display": "display(large)",
    "a closed widget": "import ipywidgets\nipywidgets.Layout().close()",
}


@pytest.mark.parametrize("more", KINDS.values(), ids=KINDS)
def test_what_an_ordinary_cell_leaves_is_freed_when_it_ends(plain, freed, more):
    plain.task(CELL + more)
    assert is_freed(freed)


def test_what_a_cell_with_widgets_leaves_is_freed_when_the_next_begins(plain, freed):
    plain.task(CELL + BUTTON)
    assert not freed.exists()
    plain.task(f"import os\nassert os.path.exists({str(freed)!r})")


def test_what_a_failed_cell_with_widgets_leaves_stays_too(plain, freed):
    plain.fail(task(CELL + BUTTON + "def later(): return large\n1 / 0"))
    assert not freed.exists()


@pytest.mark.parametrize("who", ["the page", "the cell's own code", "the cell itself"])
def test_what_a_cell_leaves_is_freed_when_its_widgets_are_closed(plain, freed, who):
    code = {
        "the page": "",
        "the cell's own code": "button.on_click(lambda b: ipywidgets.Widget.close_all())",
        "the cell itself": "button.close()\nbutton.layout.close()\nbutton.style.close()",
    }[who]
    plain.task(CELL + BUTTON + code)
    if who == "the page":
        assert not freed.exists()
        for kind in ("ButtonModel", "LayoutModel", "ButtonStyleModel"):
            comm = opened(plain, kind)["comm_id"]
            message = plain.client.session.msg("comm_close", {"comm_id": comm, "data": {}})
            plain.client.shell_channel.send(message)
    elif who == "the cell's own code":
        assert not freed.exists()
        plain.send_comm(opened(plain, "ButtonModel")["comm_id"], PRESSED)
    assert is_freed(freed)
