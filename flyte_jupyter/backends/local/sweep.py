"""Removing what killed sessions left behind, at the next load of the extension.

A supervisor cleans up behind its kernel. This is for the case that the supervisor itself was killed
too, or the machine went down: then folders remain, and perhaps processes that the members had
started and that had escaped the death of their parents.
"""

from __future__ import annotations

from flyte_jupyter.backends.local import processes, runtime_folder


def sweep() -> str:
    """Remove the clusters of this user that nobody owns any more.

    Returns
    -------
    str
        A line that says what was removed; empty if there was nothing.
    """
    folders = killed = 0
    for folder in runtime_folder.existing():
        if folder.kernel_alive or folder.supervisor_alive:
            continue
        folders += 1
        killed += processes.kill_marked(folder.mark)
        folder.remove()
    if not folders:
        return ""
    clusters = "a cluster" if folders == 1 else f"{folders} clusters"
    ended = f" ({killed} processes)" if killed else ""
    return f"Removed what was left of {clusters}{ended} of sessions that were killed."
