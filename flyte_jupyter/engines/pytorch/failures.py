"""What to say when ranks have died."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping, Sequence

from flyte_jupyter.errors import ClusterError

_NAMED = 8


def crashed(failures: Mapping[int, int], restarts: int) -> ClusterError:
    """Return the error of a task whose ranks died once too often.

    Parameters
    ----------
    failures
        Exit codes, negative for signals, by rank.
    restarts
        How often all ranks were started again.
    """
    if not failures:
        return ClusterError("the ranks have failed", fix="See %flyte logs ENV node.")
    rank, code = first_of(failures)
    again = "1 restart" if restarts == 1 else f"{restarts} restarts"
    seen = f"{again} did not help" if restarts else ""
    return ClusterError(f"rank {rank} {describe(code)}", seen=seen, fix=hint(code))


def note_of_restart(failures: Mapping[int, int], restarts: int, most: int) -> str:
    """Return the line that says that all ranks start again."""
    rank, code = first_of(failures)
    return f"Rank {rank} {describe(code)}; all ranks start again ({restarts} of {most}).\n"


def note_of_early_end(ended: Sequence[int], going: Sequence[int]) -> str:
    """Return the line that says that some ranks have ended, and others go on without them."""
    have, are, them = ("have", "are", "them") if len(ended) > 1 else ("has", "is", "it")
    go = "go" if len(going) > 1 else "goes"
    left = f"{_ranks(ended)} {have} ended and {are} let go; {_ranks(going).lower()} {go} on"
    return f"{left} without {them}.\n"


def _ranks(numbers: Sequence[int]) -> str:
    """Name ranks: all of a few, and of many how many they are."""
    if len(numbers) > _NAMED:
        return f"{len(numbers)} ranks"
    which = ", ".join(map(str, numbers))
    return f"Rank {which}" if len(numbers) == 1 else f"Ranks {which}"


def first_of(failures: Mapping[int, int]) -> tuple[int, int]:
    """Return the rank to name, and its code: one that was killed goes before one that left."""
    return min(failures.items(), key=lambda item: (item[1] >= 0, item[0]))


def describe(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code} before the cell did"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def hint(code: int) -> str:
    """Return what Flyte's plugin makes of a signal."""
    with contextlib.suppress(ImportError, AttributeError):
        from flyteplugins.pytorch import task

        text: str = task._SIGNAL_HINTS.get(code, "")
        # Its first sentence says what has been said.
        return text.partition(". ")[2] if text else ""
    return ""
