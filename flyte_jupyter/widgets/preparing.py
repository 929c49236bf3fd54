"""Progress of what is made before a cluster can start: packages of its image."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flyte_jupyter.widgets.live import LiveDisplay


@contextmanager
def preparing(name: str, after: float) -> Iterator[Callable[[str], None]]:
    """Show what is being done, from the moment on that it has taken a while.

    Parameters
    ----------
    name
        The environment.
    after
        Seconds before anything is shown.

    Yields
    ------
    Callable
        To be called with each step, in a few words.
    """
    begun, live = time.monotonic(), LiveDisplay()

    def tell(step: str) -> None:
        if live.begun or time.monotonic() - begun >= after:
            text = f"{name}: installing packages of its image. {step}"
            live.show(text, f"<progress></progress> {html.escape(text)}")

    outcome = "stopped"
    try:
        yield tell
        outcome = "installed"
    finally:
        if live.begun:
            text = f"{name}: packages {outcome} after {time.monotonic() - begun:.1f} s"
            live.show(text, html.escape(text))
