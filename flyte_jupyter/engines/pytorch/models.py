"""Models that are wrapped for the ranks of one task, on their way out of them.

Nothing here imports torch at import time: the notebook rebuilds what arrives there.
"""

from __future__ import annotations

import copyreg
import sys
from typing import Any


def unwrap_distributed_models() -> None:
    """Have what this rank returns hold models without the wrapper that makes them distributed.

    The wrapper can only be rebuilt where there is a process group, so the training would be lost.
    """
    from torch.nn.parallel import DistributedDataParallel

    said = False

    def reduce(model: Any) -> tuple[Any, ...]:
        nonlocal said
        if not said:
            said = True
            print(
                "A DistributedDataParallel model is returned as its .module: "
                "outside of the ranks there is no process group.",
                file=sys.stderr,
            )
        return _same, (model.module,)

    copyreg.pickle(DistributedDataParallel, reduce)


def _same(model: Any) -> Any:
    return model
