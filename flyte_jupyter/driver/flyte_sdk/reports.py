"""`flyte.report` in a notebook: shown below the cell, and brought up to date when it is flushed."""

from __future__ import annotations

import contextvars
import html
from pathlib import Path
from typing import Any

from flyte.report import Report
from IPython.core.getipython import get_ipython

_FRAME = (
    '<iframe srcdoc="{}" sandbox="allow-scripts" '
    'style="width: 100%; height: 30em; border: 1px solid #8884; resize: vertical"></iframe>'
)


class LiveReport(Report):
    """A report that a notebook shows, as soon as there is anything in it.

    Parameters
    ----------
    name
        Of the task.
    run
        Of the run; a report is shown once for each.
    folder
        Where the SDK is going to write it; made when it does.
    """

    def __init__(self, name: str, run: str, folder: Path) -> None:
        super().__init__(name=name)
        self._folder = folder
        self._id = f"flyte-report-{run}"
        self._shown = ""
        # It is flushed by a thread of the SDK's, which belongs to no cell.
        self._context = contextvars.copy_context()

    def get_final_report(self) -> str:
        """Return the report as a page, and show it; the SDK asks for it to flush it."""
        page = self._page()
        self.show(page)
        self._folder.mkdir(parents=True, exist_ok=True)
        return page

    def show(self, page: str = "") -> None:
        """Show what has been logged, unless that is shown already."""
        if not self.has_content():
            return
        page = page or self._page()
        if page == self._shown:
            return
        first, self._shown = not self._shown, page
        self._context.copy().run(self._publish, page, first)

    def _page(self) -> str:
        page: Any = super().get_final_report()
        return page if isinstance(page, str) else str(page.data)

    def _publish(self, page: str, first: bool) -> None:
        shell = get_ipython()
        if shell is None:
            return
        shell.display_pub.publish(
            data={
                "text/plain": f"<report of {self.name}>",
                "text/html": _FRAME.format(html.escape(page)),
            },
            transient={"display_id": self._id},
            update=not first,
        )
