"""Runs of Weights & Biases around tasks: where they go, and when they end.

Nothing is imported here: a task that has such a run has imported the library.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CHOSEN = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
_HOST = "https://api.wandb.ai"
_LIBRARY = "wandb"
_OFFLINE = "offline"
_ours = False


@contextlib.contextmanager
def tracker_run_ended() -> Iterator[None]:
    """End the run that a task joins in here and leaves to its caller to end.

    The caller is in another process; a later task of this one would take that run for its own.
    """
    before = _run()
    try:
        yield
    finally:
        run = _run()
        if run is not None and run is not before:
            run.finish()


def _run() -> Any:
    return getattr(sys.modules.get(_LIBRARY), "run", None)


def offline_without_a_key() -> None:
    """Keep runs on this machine where nothing says whose account they belong to; say so once."""
    global _ours  # noqa: PLW0603
    if _ours and os.environ.get("WANDB_MODE") == _OFFLINE:
        del os.environ["WANDB_MODE"]  # there may be a key by now
    chosen = any(os.environ.get(name) for name in _CHOSEN)
    if _LIBRARY not in sys.modules or chosen or _logged_in():
        return
    os.environ["WANDB_MODE"] = _OFFLINE
    if not _ours:
        sys.stderr.write(
            "Weights & Biases: there is no key, so runs stay on this machine; "
            "`wandb sync` sends them later.\n"
        )
    _ours = True


def _logged_in() -> bool:
    """Tell whether `wandb login` has left a key."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _HOST).netloc
    places = [os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"]
    for place in filter(None, places):
        with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
            if netrc.netrc(Path(place).expanduser()).authenticators(host):
                return True
    return False
