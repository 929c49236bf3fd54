"""Functions of local modules inside Dask's tasks.

The one place where a function of Dask's is replaced: it has no hook for this.
"""

from __future__ import annotations

from typing import Any

import cloudpickle
import distributed.client
import distributed.protocol.pickle


def pickle_local_modules_by_value() -> None:
    """Have Dask send what comes from a local module by value, wherever it stands in a task.

    Dask asks cloudpickle's registry about the outermost object alone, which for a task is one of
    Dask's own; the functions inside would go by reference, and a worker that has imported their
    module once would run its old code for ever.
    """
    by_reference = distributed.protocol.pickle.dumps

    def dumps(value: Any, *, buffer_callback: Any = None, protocol: Any = None) -> bytes:
        modules = [name.encode() for name in cloudpickle.list_registry_pickle_by_value()]
        options = {"protocol": protocol or distributed.protocol.pickle.HIGHEST_PROTOCOL}
        buffers: list[Any] = []
        if buffer_callback is not None:
            options["buffer_callback"] = buffers.append
        data: bytes = by_reference(value, **options)
        if any(module in data for module in modules):
            sent, buffers[:] = list(buffers), []
            try:
                data = cloudpickle.dumps(value, **options)
            except Exception:  # noqa: BLE001 - Dask can serialize more than cloudpickle can
                buffers[:] = sent
        for buffer in buffers:
            buffer_callback(buffer)
        return data

    distributed.protocol.pickle.dumps = distributed.client.dumps = dumps
