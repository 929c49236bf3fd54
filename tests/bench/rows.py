"""What a row of the benchmark says, and how its figures are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One figure.

    Parameters
    ----------
    name
        What is measured.
    ours, peer
        The figures, with their units.
    ratio
        Ours over the peer's.
    target
        What was promised; empty if nothing was.
    met
        Whether the target is met; None without one.
    """

    name: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """Say whether the target is met."""
        return "" if self.met is None else "met" if self.met else "missed"


Group: TypeAlias = Callable[[bool], Sequence[Row]]
"""Measures some rows; called with whether to be quick about it."""


def duration(seconds: float) -> str:
    """Write a time with a unit that suits it."""
    return f"{seconds * 1000:.1f} ms" if abs(seconds) < 0.1 else f"{seconds:.2f} s"


def size(count: float) -> str:
    """Write a number of bytes in MiB."""
    return f"{count / MIB:.0f} MiB"


def spread(values: Sequence[float]) -> str:
    """Write the median of some times, and the range that they lie in."""
    low, high = duration(min(values)), duration(max(values))
    return f"{duration(median(values))} ({low} - {high})"
