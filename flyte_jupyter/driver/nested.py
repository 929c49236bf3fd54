"""Stand-ins for this package's magics inside a driver, which say why they are not there."""

from __future__ import annotations

from typing import Any

from flyte_jupyter.errors import UsageError


def register(shell: Any) -> None:
    """Add the stand-ins to a driver's shell."""
    shell.register_magic_function(_refuse, "line", "flyte")
    shell.register_magic_function(_refuse, "cell", "flyte_task")


def _refuse(line: str, cell: str = "") -> None:
    del line, cell
    raise UsageError(
        "this is a task cell already, and its driver starts no clusters",
        fix="Use the magics in cells of the notebook itself.",
    )
