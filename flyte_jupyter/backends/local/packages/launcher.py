"""Becoming another program that is killed when the process which wanted it dies."""

from __future__ import annotations

import os
import sys

from flyte_jupyter.backends.local.processes import die_with_parent


def main() -> None:
    """Run as ``python -m flyte_jupyter.backends.local.packages.launcher PARENT COMMAND...``."""
    parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
