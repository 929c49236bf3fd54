"""Refs: handles to values that stay in a driver."""

from __future__ import annotations

import contextlib
import contextvars
import html
from collections.abc import Iterator
from typing import Any, Protocol

from flyte_jupyter.cells.sizes import human_size
from flyte_jupyter.driver.refs import resolve
from flyte_jupyter.driver.wire import RefInfo
from flyte_jupyter.errors import CaptureError, RefLost

_packing_for: contextvars.ContextVar[str] = contextvars.ContextVar("packing_for", default="")


@contextlib.contextmanager
def packing_for(driver: str) -> Iterator[None]:
    """Pickle refs for one driver: a ref is only understood by its own."""
    token = _packing_for.set(driver)
    try:
        yield
    finally:
        _packing_for.reset(token)


class Home(Protocol):
    """The driver that a ref's value lies in."""

    @property
    def driver(self) -> str:
        """Identity of the present driver."""

    def fetch(self, ref: Ref) -> Any:
        """Bring a value here."""

    def drop(self, ref: str) -> None:
        """Say that nobody holds a handle any more."""


class Ref:
    """A handle to a value that stays in a driver.

    Used as an input of a task in the same environment, it is resolved there and nothing is sent.

    Parameters
    ----------
    info
        What the driver said of the value.
    home
        The cluster whose driver has it.
    environment
        Name of the environment.
    """

    def __init__(self, info: RefInfo, home: Home, environment: str) -> None:
        self.id = info["id"]
        self.type = info["type"]
        self.size = info["size"]
        self.preview = info["preview"]
        self.environment = environment
        self._home = home
        self._driver = home.driver

    @property
    def alive(self) -> bool:
        """Whether the driver that holds the value still runs."""
        return bool(self._driver) and self._home.driver == self._driver

    def get(self) -> Any:
        """Bring the value to the notebook.

        Raises
        ------
        RefLost
            Its driver is gone, and the value with it.
        """
        self.check()
        return self._home.fetch(self)

    def check(self) -> None:
        """Raise `RefLost` if the driver is gone."""
        if not self.alive:
            raise RefLost(
                f"the {self.type} of this ref is gone",
                seen=f"the driver of {self.environment} that held it has ended",
                fix="Run the cell that made it again.",
            )

    def belongs_to(self, driver: str) -> bool:
        """Whether a driver has the value."""
        return self._driver == driver

    def __reduce__(self) -> tuple[object, ...]:
        self.check()
        if _packing_for.get() != self._driver:
            raise CaptureError(
                f"a ref of {self.environment} means something only there",
                fix="Fetch the value with .get() and pass that.",
            )
        return resolve, (self.id,)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._home.drop(self.id)

    def __repr__(self) -> str:
        state = "" if self.alive else " (gone)"
        about = f"{self.type}, {human_size(self.size)}, in {self.environment}{state}"
        return f"<Ref {about}: {self.preview}>"

    def _repr_html_(self) -> str:
        state = "" if self.alive else " <b>(gone: its driver has ended)</b>"
        return (
            f"<b>Ref</b> to a <code>{html.escape(self.type)}</code> of {human_size(self.size)} "
            f"in <b>{html.escape(self.environment)}</b>{state}"
            f"<pre style='max-height:12em;overflow:auto'>{html.escape(self.preview)}</pre>"
        )
