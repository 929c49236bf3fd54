"""Tables that read well as text and as HTML, in whatever shows the notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence

from flyte_jupyter.widgets.links import anchors


class Table:
    """Rows under headings; `repr` is text, a notebook shows HTML.

    Parameters
    ----------
    headings
        One a column.
    rows
        Cells as text.
    empty
        What to say when there is no row.
    links
        Web pages to name below, by title.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        empty: str = "",
        links: dict[str, str] | None = None,
    ) -> None:
        self.headings = list(headings)
        self.rows = [[str(cell) for cell in row] for row in rows]
        self.empty = empty
        self.links = links or {}

    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        columns = zip(self.headings, *self.rows, strict=True)
        widths = [max(len(line) for c in column for line in c.split("\n")) for column in columns]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [self.headings, *self.rows]
        ]
        return "\n".join([*lines, *(f"{title}: {url}" for title, url in self.links.items())])

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<i>{html.escape(self.empty)}</i>"
        head = "".join(f"<th style='text-align:left'>{html.escape(h)}</th>" for h in self.headings)
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in row)
            + "</tr>"
            for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return table + anchors(self.links)
