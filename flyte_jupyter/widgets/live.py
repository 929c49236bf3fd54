"""One display that changes in place."""

from __future__ import annotations

from typing import Any


class LiveDisplay:
    """Something that is shown once and updated from then on.

    In a terminal nothing moves: the first text is printed, and that is that.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = ""

    @property
    def begun(self) -> bool:
        """Whether anything has been shown."""
        return self._handle is not None

    def show(self, text: str, html: str) -> None:
        """Show this instead of what was shown before, unless the text is the same."""
        if text == self._shown:
            return
        self._shown = text
        self._display({"text/plain": text, "text/html": html})

    def _display(self, data: dict[str, str]) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if not hasattr(get_ipython(), "kernel"):
            if self._handle is None:
                self._handle = True
                print(data["text/plain"], flush=True)
        elif self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
