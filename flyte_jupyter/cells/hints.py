"""Remember what task cells bound and did not return, for the `NameError` that may follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Hints:
    """Names that exist in a driver's cell only, each with the environment it ran in."""

    def __init__(self) -> None:
        self._stayed: dict[str, str] = {}
        self._coming: dict[str, str] = {}

    def note(self, binds: Iterable[str], returned: Iterable[str], environment: str) -> None:
        """Note a task cell that has run.

        Parameters
        ----------
        binds
            Names that the cell bound.
        returned
            Names that the notebook has now, by value or by ref.
        environment
            Name of the environment that the cell ran in.
        """
        self._stayed.update(dict.fromkeys(binds, environment))
        self.forget(returned)

    def note_coming(self, names: Iterable[str], run: str) -> None:
        """Note names that a run in the background returns, which nothing binds in the notebook."""
        self.forget(names)
        self._coming.update(dict.fromkeys(names, run))

    def forget(self, names: Iterable[str]) -> None:
        """Forget names that the notebook has bound itself."""
        for name in names:
            self._stayed.pop(name, None)
            self._coming.pop(name, None)

    def hint(self, name: str) -> str | None:
        """Say where a name is that the notebook does not have, if a task cell bound it."""
        if run := self._coming.get(name):
            return f"`{name}` is a value of {run}, a run in the background: its result() has it."
        environment = self._stayed.get(name)
        if environment is None:
            return None
        return (
            f"`{name}` was bound in a task cell of {environment} and stayed there: "
            f"return it with `-o {name}`, or keep it there as a ref with `-r {name}`."
        )
