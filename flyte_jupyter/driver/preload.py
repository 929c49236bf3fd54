"""What a driver imports before it is forked: everything that is slow, and nothing that runs."""

from __future__ import annotations

import sys

# A driver has no debugger to attach to, and debugpy would take a tenth of a second of its start.
_before = sys.modules.get("debugpy")
sys.modules["debugpy"] = None  # type: ignore[assignment]
try:
    import ipykernel.debugger  # noqa: F401
finally:
    del sys.modules["debugpy"]
    if _before is not None:
        sys.modules["debugpy"] = _before

from flyte_jupyter.driver import kernel  # noqa: E402
from flyte_jupyter.driver.flyte_sdk import calls, controller, data  # noqa: E402
from flyte_jupyter.driver.flyte_sdk import context as flyte_context  # noqa: E402

flyte_context.survive_fork()

__all__ = ["calls", "controller", "data", "flyte_context", "kernel"]
