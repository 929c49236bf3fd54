"""What rank 0 returns, taken over by the driver before that process goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flyte_jupyter.driver.job import Outcome
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.forwarding import forward
from flyte_jupyter.engines.pytorch.links import RankLink

if TYPE_CHECKING:
    from flyte_jupyter.driver.wire import RefInfo, TaskReply


class Taken:
    """Outputs and kept values of a rank that has ended well.

    Parameters
    ----------
    rank
        Rank 0, which is still there.

    Raises
    ------
    UnpackError
        What it keeps cannot be rebuilt here.
    """

    def __init__(self, rank: RankLink) -> None:
        reply: Any = rank.reply
        self._kept = transfer.unpack(reply["kept"], reply["kept_frames"])
        self._outputs = forward(reply["outputs"], rank.frames)

    def outcome(self, keep: Callable[[object], RefInfo]) -> Outcome:
        """Return how the task ends, once all ranks have ended well.

        Parameters
        ----------
        keep
            Keeps a value in the driver.
        """
        refs = {name: keep(value) for name, value in self._kept.items()}
        told: TaskReply = {"status": "ok", "outputs": self._outputs.header, "refs": refs}
        return Outcome(told, self._outputs.frames, self._outputs)

    def close(self) -> None:
        """Let go of it: the ranks begin anew."""
        self._kept.clear()
        self._outputs.close()
