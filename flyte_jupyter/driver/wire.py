"""What crosses between the notebook kernel and a driver, in one place.

The wire is Jupyter's messaging protocol. This project adds one request to it, `task_request`, whose
buffers are the environment, then the inputs' frames: on a channel of its own, which the driver's
main thread reads, or on the control channel for a task beside the one that runs there. `DROP` tells
the driver what the notebook no longer needs. `CALL`, `RETURN` and `RECEIVED` are for tasks that
call tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

REQUEST = "task_request"
REPLY = "task_reply"
INTERRUPT = "task_interrupt"
"""On the control channel: interrupt the `run` of a `request`, which may not have begun yet."""
CALL = "task_call"
"""On the output channel: a `NestedCall`, by which a task has the notebook run another."""
RECEIVED = "task_received"
"""On the control channel: what a run returned has been received, and need not be held any more."""
RETURN = "task_return"
"""On the control channel: what a nested call returned, as `reply`, with the reply's buffers."""
DROP = "task_drop"
"""On the tasks' channel: `refs` to which the notebook holds no handle any more."""


class Around(TypedDict, total=False):
    """What a task finds around it, as the notebook has it now."""

    cwd: str
    path: list[str]
    """`sys.path`, if it is not as it was when the cluster began."""
    environ: dict[str, tuple[str | None, str | None]]
    """Variables that are otherwise than they were then: what they were, and are."""
    extensions: list[str]
    """IPython's extensions that are loaded."""


class TaskRequest(TypedDict):
    """Content of a `task_request`. The first buffer is the pickled `Declaration`."""

    run: str
    call: bool
    """Whether the inputs are a task, its `args` and `kwargs`, to be called instead of `code`."""
    code: str
    count: int
    """The notebook's execution count, for ``Cell In[n]`` in tracebacks."""
    line: int
    """Lines of the notebook cell above `code`, so that line numbers are the cell's own."""
    cells: dict[str, tuple[int, str]]
    """Cells of the notebook that the driver has not seen: file name to execution count and text."""
    inputs: Any
    """`transfer.ParcelHeader` of the remaining buffers."""
    returns: list[str]
    keeps: list[str]
    allow_stdin: bool
    around: Around
    ranks: str
    """Which ranks' output to show, for engines that run a cell in several: ``all``, ``0,3``."""
    own: bool
    """Whether a task of this very driver calls it, whose classes are there already."""


class RefInfo(TypedDict):
    """What the notebook knows of a value that stays in a driver."""

    id: str
    type: str
    size: int
    preview: str


class TaskReply(TypedDict, total=False):
    """Content of a `task_reply`; its buffers are the frames of `exception`, then of `outputs`."""

    status: Literal["ok", "error"]
    seconds: float
    quiet: bool
    """Whether nothing was published meanwhile; else the driver says that it is idle after that."""
    outputs: Any
    """`ParcelHeader` of what goes back by value; a cell that failed may have bound some of it."""
    payload: list[dict[str, Any]]
    """What IPython's front ends get besides output: the help of ``name?``."""
    before: int
    """How many buffers come before those of `outputs`."""
    refs: dict[str, RefInfo]
    ename: str
    evalue: str
    traceback: list[str]
    exception: Any
    where: Literal["cell", "inputs", "outputs", "cluster"]
    """What failed: the cell itself, the way of its values in or out, or what it runs on."""


class NestedCall(TypedDict, total=False):
    """Content of a `CALL`. It has one of `call`, `cancel` and `received`, each a call's name."""

    run: str
    """The run that calls."""
    call: str
    """The first buffer says what is known of the task, pickled; the others are the inputs'."""
    inputs: Any
    cancel: str
    received: str
    """The driver has mapped what the call returned."""


def connection(folder: Path, generation: int, key: str) -> dict[str, Any]:
    """Return a driver's connection, as Jupyter's connection files have it.

    Parameters
    ----------
    folder
        The cluster's folder, which holds the sockets.
    generation
        Which driver of this cluster.
    key
        The key that signs its messages.
    """
    channels = ("shell", "iopub", "stdin", "control", "hb", "task")
    ports = {f"{channel}_port": number for number, channel in enumerate(channels, 1)}
    return {
        "transport": "ipc",
        "ip": str(folder / f"d{generation}"),
        "key": key,
        "signature_scheme": "hmac-sha256",
        **ports,
    }
