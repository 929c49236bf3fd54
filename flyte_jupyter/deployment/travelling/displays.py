"""What a cell displays in a container, where there is no notebook."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

SHOWN = "displayed"
"""Name of the output that holds what a cell has displayed."""
_FORMS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_svg_": "image/svg+xml",
    "_repr_latex_": "text/latex",
}


class Displays:
    """What a cell displays: plain text is printed, richer forms travel back with its outputs."""

    def __init__(self) -> None:
        self._shown: list[dict[str, Any]] = []

    def show(self, *values: Any, **options: Any) -> None:
        """Display values, as IPython's `display` does."""
        del options
        for value in values:
            self._show(value, "display")

    def show_result(self, value: Any) -> None:
        """Display the value of a last expression."""
        if value is not None:
            self._show(value, "result")

    def _show(self, value: Any, kind: str) -> None:
        text = repr(value)
        forms = dict(self._forms(value))
        if forms or kind == "result":
            self._shown.append({"kind": kind, "data": {"text/plain": text, **forms}})
        else:
            print(text)

    def _forms(self, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, type):
            return
        bundle = getattr(value, "_repr_mimebundle_", None)
        if callable(bundle):
            found = _quietly(bundle)
            if isinstance(found, tuple):
                found = found[0]
            yield from (found or {}).items()
        for method, kind in _FORMS.items():
            found = _quietly(getattr(value, method, None))
            if isinstance(found, str):
                yield kind, found
        for method, kind in (("_repr_png_", "image/png"), ("_repr_jpeg_", "image/jpeg")):
            found = _quietly(getattr(value, method, None))
            if isinstance(found, bytes):
                yield kind, base64.b64encode(found).decode()

    def as_text(self) -> str:
        """Return all that was displayed, as JSON."""
        return json.dumps(self._shown, default=str)


def _quietly(method: Any) -> Any:
    try:
        return method() if callable(method) else None
    except Exception:  # noqa: BLE001 - it is shown as text then
        return None
