"""The table: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.rows import Row

_HEAD = ("row", "ours", "peer", "ratio", "target", "verdict")


def as_text(rows: Sequence[Row]) -> str:
    """Return the table in columns, rows that have a peer first."""
    lines = [_HEAD, *_cells(rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the same table as Markdown."""
    lines = [_HEAD, ("---",) * len(_HEAD), *_cells(rows)]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            row.ours,
            row.peer,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
            row.verdict,
        )
        for row in sorted(rows, key=lambda row: row.ratio is None)
    ]
