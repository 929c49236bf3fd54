"""Progress of a cluster that starts: one display, updated in place, gone when there is no need."""

from __future__ import annotations

import html

from flyte_jupyter.backends.backend import DRIVER
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.widgets.links import anchors, reachable
from flyte_jupyter.widgets.live import LiveDisplay


class StartProgress:
    """Shows how far a cluster has come, if it takes longer than a moment.

    In a terminal nothing moves: one line when it is worth a line.

    Parameters
    ----------
    cluster
        The cluster that starts.
    after
        Seconds before anything is shown.
    """

    def __init__(self, cluster: Cluster, after: float) -> None:
        self._cluster = cluster
        self._after = after
        self._live = LiveDisplay()

    def tick(self, seconds: float) -> None:
        """Show the present state; called a few times a second while the notebook waits."""
        cluster = self._cluster
        if cluster.state == "starting" and seconds < self._after:
            return
        if cluster.state != "starting" and not self._live.begun:
            return
        self._show()

    def finish(self) -> None:
        """Show how it came out, if its progress was shown."""
        if self._live.begun:
            self._show()

    def _show(self) -> None:
        text = self._text()
        self._live.show(text, self._html(text))

    def _text(self) -> str:
        cluster = self._cluster
        if cluster.state == "ready":
            return f"{cluster.name}: {cluster.summary()}"
        if cluster.state != "starting":
            return f"{cluster.name}: {cluster.state}"
        return f"{cluster.name}: starting {cluster.environment.engine.name}, {self._steps()}"

    def _steps(self) -> str:
        members = self._cluster.members()
        ready = sum(m["state"] == "ready" for m in members)
        late = sorted({m["role"] for m in members if m["state"] != "ready" and m["role"] != DRIVER})
        waiting = f", waiting for {' and '.join(late)}" if late else ""
        return f"{ready} of {len(members) or '…'} processes{waiting}"

    def _html(self, text: str) -> str:
        members = self._cluster.members()
        if self._cluster.state != "starting":
            return f"{self._cluster._repr_html_()} {anchors(reachable(self._cluster.links))}"
        ready = sum(m["state"] == "ready" for m in members)
        bar = f"<progress value='{ready}' max='{max(1, len(members))}'></progress>"
        return f"{bar} {html.escape(text)}"
