"""A job as the cell shows it: its phase, what its service says, and links to its pages."""

from __future__ import annotations

import html
import json
from typing import Any

from IPython.core.getipython import get_ipython

_COLOURS = {"SUCCEEDED": "#2e7d32", "RUNNING": "#1565c0", "FAILED": "#c62828", "ABORTED": "#c62828"}


class JobView:
    """One display, brought up to date when something changes.

    Parameters
    ----------
    name
        Of the task.
    run
        Of the run; a job is shown once for each.
    """

    def __init__(self, name: str, run: str) -> None:
        self._name, self._id = name, f"flyte-job-{run}"
        self._shown = ""
        self._links: dict[str, str] = {}

    def show(self, phase: str, resource: Any) -> None:
        """Show what a connector said.

        Parameters
        ----------
        phase
            Name of the job's phase.
        resource
            A `flyte.connectors.Resource`. What it does not repeat of its links stays.
        """
        for link in resource.log_links or ():
            self._links[link.name or link.uri] = link.uri
        self._publish(self._text(phase, resource), self._html(phase, resource))

    def end(self, phase: str) -> None:
        """Show how it ended, if it was shown."""
        if self._shown:
            text = f"{self._name}: {phase}"
            self._publish(text, f"{self._title(phase)} {self._anchors()}")

    def _text(self, phase: str, resource: Any) -> str:
        parts = [f"{self._name}: {phase}"]
        if resource.message:
            parts.append(str(resource.message))
        if resource.custom_info:
            parts.append(_as_json(resource.custom_info))
        parts += [f"{name}: {uri}" for name, uri in self._links.items()]
        return "  ".join(parts)

    def _title(self, phase: str) -> str:
        colour = _COLOURS.get(phase, "#757575")
        return f"<b>{html.escape(self._name)}</b> <span style='color: {colour}'>{phase}</span>"

    def _html(self, phase: str, resource: Any) -> str:
        lines = [f"{self._title(phase)} {html.escape(str(resource.message or ''))}"]
        if self._links:
            lines.append(self._anchors())
        if resource.custom_info:
            lines.append(f"<pre>{html.escape(_as_json(resource.custom_info, indent=2))}</pre>")
        return "<br>".join(lines)

    def _anchors(self) -> str:
        return " ".join(
            f"<a href='{html.escape(uri)}' target='_blank' rel='noopener'>{html.escape(name)}</a>"
            if uri.startswith(("https://", "http://"))
            else html.escape(f"{name}: {uri}")
            for name, uri in self._links.items()
        )

    def _publish(self, text: str, page: str) -> None:
        shell = get_ipython()
        if shell is None or page == self._shown:
            return
        first, self._shown = not self._shown, page
        shell.display_pub.publish(
            data={"text/plain": text, "text/html": page},
            transient={"display_id": self._id},
            update=not first,
        )


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=str)
