"""A job as the cell shows it: its phase, what its service says, and links to its pages."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable
from typing import Any

from IPython.core.getipython import get_ipython

from flyte_jupyter.driver.anchors import anchors
from flyte_jupyter.secret_names import without_secrets

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

    def show(self, phase: str, resource: Any, masked: Callable[[str], str] = str) -> None:
        """Show what a connector said.

        Parameters
        ----------
        phase
            Name of the job's phase.
        resource
            A `flyte.connectors.Resource`. What it does not repeat of its links stays.
        masked
            Takes values of secrets out of a text.
        """
        for link in resource.log_links or ():
            self._links[link.name or link.uri] = link.uri
        message = masked(str(resource.message or ""))
        info = without_secrets(resource.custom_info or {})
        text, pretty = masked(_as_json(info)), masked(_as_json(info, indent=2))
        self._publish(
            "  ".join(self._parts(phase, message, text if info else "")),
            self._html(phase, message, pretty if info else ""),
        )

    def show_silence(self, since: float, why: str) -> None:
        """Show that looks at the job fail.

        Parameters
        ----------
        since
            When the first one did, in seconds since the epoch.
        why
            What the last one ran into, without secrets.
        """
        silence = time.strftime("no answer since %H:%M:%S", time.localtime(since))
        self._publish(
            "  ".join(self._parts(silence, why, "")),
            self._html(silence, why, ""),
        )

    def end(self, phase: str) -> None:
        """Show how it ended, if it was shown."""
        if self._shown:
            text = f"{self._name}: {phase}"
            self._publish(text, f"{self._title(phase)} {anchors(self._links.items())}")

    def _parts(self, phase: str, message: str, info: str) -> list[str]:
        links = [f"{name}: {uri}" for name, uri in self._links.items()]
        return [f"{self._name}: {phase}", *filter(None, [message, info]), *links]

    def _title(self, phase: str) -> str:
        colour = _COLOURS.get(phase, "#757575")
        name, phase = html.escape(self._name), html.escape(phase)
        return f"<b>{name}</b> <span style='color: {colour}'>{phase}</span>"

    def _html(self, phase: str, message: str, info: str) -> str:
        lines = [f"{self._title(phase)} {html.escape(message)}", anchors(self._links.items())]
        if info:
            lines.append(f"<pre>{html.escape(info)}</pre>")
        return "<br>".join(filter(None, lines))

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
