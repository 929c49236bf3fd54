"""Links of a task, as `flyte.Link`s give them, below the cell that runs it."""

from __future__ import annotations

from typing import Any

from IPython.core.getipython import get_ipython

from flyte_jupyter.driver.anchors import anchors
from flyte_jupyter.driver.flyte_sdk.context import links_of


def show_links(task: Any) -> None:
    """Show the links that the task declares in whose context this is called."""
    shell = get_ipython()
    links = links_of(task)
    if shell is None or not links:
        return
    data = {
        "text/plain": "  ".join(f"{name}: {uri}" for name, uri in links),
        "text/html": anchors(links),
    }
    shell.display_pub.publish(data=data)
