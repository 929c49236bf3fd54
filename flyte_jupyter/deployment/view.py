"""A run on a deployment as the cell shows it: its phase, and the way to its page."""

from __future__ import annotations

import html
from typing import Any

from flyte_jupyter.deployment.following import Progress
from flyte_jupyter.driver.anchors import anchors
from flyte_jupyter.driver.relay import Sink

ENDED = ("succeeded", "failed", "aborted", "timed_out", "recovered")
"""Phases in which a run has ended."""
_COLOURS = {"succeeded": "#2e7d32", "failed": "#c62828", "aborted": "#c62828"}
_OTHER = "#1565c0"


class RunView:
    """One display in the cell, brought up to date with each phase.

    Parameters
    ----------
    sink
        Where the cell's output goes.
    title
        What the run is called.
    run
        Of the run, in lists.
    """

    def __init__(self, sink: Sink, title: str, run: str) -> None:
        self._sink, self._title, self._id = sink, title, f"flyte-run-{run}"
        self._shown = ""

    def show(self, phase: str, progress: Progress | None = None) -> None:
        """Show a phase, and with `progress` what is known besides."""
        words = phase.replace("_", " ")
        if progress and phase in ENDED:
            words += f" after {progress.seconds:.1f} s"
        if progress and progress.attempt > 1:
            words += f", attempt {progress.attempt}"
        text = f"{self._title} on Flyte: {words}"
        colour = _COLOURS.get(phase, _OTHER)
        page = (
            f"<b>{html.escape(self._title)}</b> on Flyte: "
            f"<span style='color: {colour}'>{html.escape(words)}</span>"
        )
        if progress:
            text += f"  {progress.url}"
            page += f" {anchors([(progress.name, progress.url)])}"
        if page != self._shown:
            data = {"text/plain": text, "text/html": page}
            self._publish(data, update=bool(self._shown))
            self._shown = page

    def _publish(self, data: dict[str, Any], *, update: bool) -> None:
        content = {"data": data, "metadata": {}, "transient": {"display_id": self._id}}
        self._sink.display(content, update=update)

    def show_all(self, displays: list[dict[str, Any]], count: int) -> None:
        """Show what the cell displayed."""
        for each in displays:
            content = {"data": each["data"], "metadata": {}}
            if each["kind"] == "result":
                self._sink.result({**content, "execution_count": count})
            else:
                self._sink.display(content)

    def show_report(self, page: str) -> None:
        """Show a task's report."""
        self._sink.display({"data": {"text/plain": "(a report)", "text/html": page}})
