"""Write the README's table of settings from the traits, or check that it is up to date.

python -m tests.settings_reference [--check] README.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from flyte_jupyter.config import FlyteJupyter

BEGIN, END = "<!-- settings: make docs -->\n", "<!-- end of settings -->"


def table() -> str:
    """Return all settings as a Markdown table."""
    lines = ["| setting | default | what it does |", "|---|---|---|"]
    for name, trait in sorted(FlyteJupyter.class_own_traits(config=True).items()):
        lines.append(f"| `{name}` | `{trait.default_value_repr()}` | {trait.help} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return a document with the table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the document has no marks for the settings")
    return before + begin + table() + end + after


def main(arguments: list[str]) -> int:
    path = Path(arguments[-1])
    text = path.read_text()
    if "--check" not in arguments:
        path.write_text(with_table(text))
    elif with_table(text) != text:
        print(f"the settings in {path} are out of date: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
