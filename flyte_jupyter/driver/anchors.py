"""Links as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable


def anchors(links: Iterable[tuple[str, str]]) -> str:
    """Return links, a name and an address each, as HTML; only pages can be followed."""
    return " ".join(
        f"<a href='{html.escape(uri)}' target='_blank' rel='noopener'>{html.escape(name)}</a>"
        if uri.startswith(("https://", "http://"))
        else html.escape(f"{name}: {uri}")
        for name, uri in links
    )
