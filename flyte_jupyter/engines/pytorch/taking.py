"""What rank 0 returns, taken over by the driver before that process goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flyte_jupyter.driver.job import Outcome
from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.forwarding import Forwarded, forward
from flyte_jupyter.engines.pytorch.links import RankLink

if TYPE_CHECKING:
    from flyte_jupyter.driver.wire import RefInfo, TaskReply


@dataclass(frozen=True)
class Unit:
    """Values that were kept together, as they came: ranks of later tasks map the very same copy.

    Its memory is freed when the last of them is not kept any more.

    Parameters
    ----------
    parcel
        What any number of ranks can unpack.
    names
        What each is called in there, by its ref.
    """

    parcel: Forwarded
    names: dict[str, str] = field(default_factory=dict)


class Taken:
    """Outputs and kept values of a rank that has ended, well or with what it had bound by then.

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
        self._unit = Unit(forward(reply["kept"], reply["kept_frames"]))
        self._outputs = forward(reply["outputs"], rank.frames[reply["before"] :])

    def outcome(
        self,
        keep: Callable[[object, object], RefInfo],
        reply: TaskReply,
        frames: Sequence[bytes | memoryview] = (),
    ) -> Outcome:
        """Return how the task ends.

        Parameters
        ----------
        keep
            Keeps a value in the driver, and what it came from.
        reply, frames
            How it ends, beside what is returned.
        """
        refs = {name: keep(value, self._unit) for name, value in self._kept.items()}
        self._unit.names.update({info["id"]: name for name, info in refs.items()})
        returned = {"outputs": self._outputs.header, "refs": refs, "before": len(frames)}
        told = cast("TaskReply", {**reply, **returned})
        return Outcome(told, [*frames, *self._outputs.frames], self._outputs)

    def close(self) -> None:
        """Let go of it: the ranks begin anew, or it came too late."""
        self._kept.clear()
        self._unit.parcel.close()
        self._outputs.close()


def end_of(rank: RankLink) -> tuple[TaskReply, list[bytes]]:
    """Return how a rank says that the task ends, without what it returns."""
    reply: Any = rank.reply
    frames = rank.frames[: reply.get("before", len(rank.frames))]
    return cast("TaskReply", {k: v for k, v in reply.items() if k not in _RETURNED}), frames


_RETURNED = ("outputs", "before", "kept", "kept_frames")
