"""What a cell gives back: what was asked for, and, where it failed, what of that it has bound.

A plain cell that fails leaves its names behind, and so does one of a task: hours of work are not
lost to the last line of a cell, to an interrupt, or to one value that cannot be pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyte_jupyter.driver.refs import size_of
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.transfer import PackError, Parcel
from flyte_jupyter.driver.wire import TaskRequest

_AT_ONCE = 64 * 2**20
"""Bytes of a value that a failed cell gives back at once; larger ones wait to be fetched."""
_ABSENT = object()


@dataclass
class Returned:
    """What goes back.

    Parameters
    ----------
    parcel
        By value.
    kept
        What stays, by name.
    problem
        Why something that was asked for by value does not go back so.
    """

    parcel: Parcel
    kept: dict[str, Any] = field(default_factory=dict)
    problem: Exception | None = None


def give_back(request: TaskRequest, namespace: Mapping[str, Any], folder: Path) -> Returned:
    """Return what a cell that ended well was asked for; also if it has not bound it all."""
    asked = [*request["returns"], *request["keeps"]]
    values = {name: namespace[name] for name in request["returns"] if name in namespace}
    made = pack_possible(values, folder)
    if unbound := [name for name in asked if name not in namespace]:
        listed = ", ".join(f"`{name}`" for name in unbound)
        made.problem = NameError(f"the cell ended without binding {listed}")
    # Of the one value of a function, and of what is fetched without code, nobody could take hold.
    held = asked if request["code"] and not request["call"] else request["keeps"]
    made.kept = {n: namespace[n] for n in held if n in namespace and n not in made.parcel.sizes}
    return made


def salvage(
    request: TaskRequest,
    namespace: Mapping[str, Any],
    before: Mapping[str, Any],
    folder: Path,
) -> Returned:
    """Return what a cell that failed has bound of what it was asked for.

    Parameters
    ----------
    request, namespace, folder
        As for `give_back`.
    before
        What was bound before it ran: of that nothing goes back.
    """
    asked = [*request["returns"], *request["keeps"]]
    bound = {
        name: namespace[name]
        for name in asked
        if namespace.get(name, _ABSENT) is not before.get(name, _ABSENT)
    }
    # Whoever has interrupted it does not wait for long.
    small = {n: bound[n] for n in request["returns"] if n in bound and size_of(bound[n]) < _AT_ONCE}
    made = pack_possible(small, folder)
    made.kept = {name: value for name, value in bound.items() if name not in made.parcel.sizes}
    return made


def pack_possible(values: dict[str, Any], folder: Path) -> Returned:
    """Pack all values that can be packed."""
    problem: Exception | None = None
    while True:
        try:
            return Returned(transfer.pack(values, folder=folder), problem=problem)
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything
            problem = problem or error
            culprit = error.variable if isinstance(error, PackError) else ""
            values = {n: v for n, v in values.items() if culprit and n != culprit}
