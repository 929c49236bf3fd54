"""A stand-in for a notebook kernel: starts a toy cluster, says where, and waits to be killed.

Run as ``python kernel_process.py plain|forked|busy``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from backend_parts import Watched

from flyte_jupyter.engines.engine import Role


async def main(how):
    each = Watched()
    await each.create(
        Role("tree", "local_members:leave_a_tree"), Role("stubborn", "local_members:ignore_sigterm")
    )
    status = await each.ready()
    child = 0
    if how == "forked":
        child = os.fork()
        if not child:
            signal.pause()  # it holds a copy of everything that its parent has open
    folder = each.backend.folder("toy")
    supervisor = int((folder / "supervisor").read_text().split()[0])
    pids = [supervisor, *(m["pid"] for m in status["members"])]
    pids += map(int, (folder / "escaped").read_text().split())
    print(json.dumps({"folder": str(folder), "pids": pids, "child": child}), flush=True)
    if how == "returns":
        return
    await asyncio.sleep(600)


if __name__ == "__main__":
    # Tests that run in the background of a shell inherit that it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(main(sys.argv[1]))
