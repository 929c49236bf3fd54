"""Links of a task, as `flyte.Link`s give them, below the cell that runs it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from IPython.core.getipython import get_ipython

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


def anchors(links: Iterable[tuple[str, str]]) -> str:
    """Return links, a name and an address each, as HTML; only pages can be followed."""
    return " ".join(
        f"<a href='{html.escape(uri)}' target='_blank' rel='noopener'>{html.escape(name)}</a>"
        if uri.startswith(("https://", "http://"))
        else html.escape(f"{name}: {uri}")
        for name, uri in links
    )
