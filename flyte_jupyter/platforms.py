"""Where this package can run at all, asked before anything that only works there is imported."""

from __future__ import annotations

import sys

from flyte_jupyter.errors import ClusterError


def require_platform() -> None:
    """Refuse Windows.

    Raises
    ------
    ClusterError
        It is Windows.
    """
    if sys.platform == "win32":
        raise ClusterError(
            "clusters on this machine need Linux or macOS",
            seen="Windows has neither Unix sockets for Jupyter channels nor fork",
            fix="Run Jupyter inside WSL 2.",
        )
