"""How sizes are written for people."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def human_size(size: int) -> str:
    """Write a number of bytes, with one decimal from a kibibyte on.

    Examples
    --------
    >>> human_size(67108864)
    '64.0 MiB'
    """
    if abs(size) < 1024:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1024
        if abs(value) < 1023.95:  # what rounds to 1024.0 belongs to the next unit
            return f"{value:.1f} {unit}"
    return f"{value:.1f} {_UNITS[-1]}"
