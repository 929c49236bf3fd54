"""What a driver imports before it is forked: everything that is slow, and nothing that runs."""

from flyte_jupyter.driver import flyte_context, kernel

flyte_context.survive_fork()

__all__ = ["flyte_context", "kernel"]
