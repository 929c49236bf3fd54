"""What Ray starts in the place of a node's agents: it has one forked, and leaves one out.

Every agent of Ray is a new Python that imports Ray for a second or two of a core, and the raylet
waits for it. In a node of ours a process that has imported Ray is there already (`agents.py`). This
script hands it command line, environment and descriptors, and waits for as long as it lives, for
the raylet ends with its agents. It must start fast: it imports nothing but built-in modules.

The dashboard's agent is left out: it measures the machine for a page that nobody may ever open.
"""

import marshal
import os
import socket
import sys

VARIABLE = "FLYTE_JUPYTER_RAY_AGENT"
"""Where the process that becomes the agent listens."""


def main() -> None:
    """Have a script run, and end as it ends."""
    command = sys.argv[1:]
    if command[0].endswith(os.path.join("dashboard", "agent.py")):  # noqa: PTH118 - as text
        os.execvp("cat", ["cat"])  # noqa: S607 - it ends when its input does, and that is when the raylet does
    order = marshal.dumps((command, dict(os.environ)))
    agent = socket.socket(socket.AF_UNIX)
    try:
        agent.connect(os.environ[VARIABLE])
        socket.send_fds(agent, [len(order).to_bytes(8, "little")], [0, 1, 2])
        agent.sendall(order)
    except OSError:
        os.execv(sys.executable, [sys.executable, *command])
    os.closerange(0, 3)
    agent.recv(1)  # nothing is sent: the end of it is the end of the agent


if __name__ == "__main__":
    main()
