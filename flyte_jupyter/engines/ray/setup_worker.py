"""What Ray starts to prepare a worker with a runtime environment of its own.

Ray's own script of this name, by which the raylet knows it, imports Ray to set some variables, and
becomes the worker, which imports it again. This one does the same without; what it does not know it
leaves to Ray's own.
"""

import json
import os
import re
import shlex
import sys


def main() -> None:
    """Become the worker."""
    worker, *options = sys.argv[1:]
    given = {}
    for name in ("--serialized-runtime-env-context", "--language"):
        found = next((word for word in options if word.startswith(f"{name}=")), "")
        given[name] = found.partition("=")[2]
    context = json.loads(given["--serialized-runtime-env-context"] or "{}")
    if given["--language"] != "PYTHON" or context.get("override_worker_entrypoint"):
        setup = os.path.join(os.path.dirname(worker), "setup_worker.py")  # noqa: PTH118, PTH120
        os.execv(sys.executable, [sys.executable, setup, *sys.argv[1:]])
    for name, value in (context.get("env_vars") or {}).items():
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    rest = [word for word in options if not word.startswith(tuple(given))]
    python = context.get("py_executable") or sys.executable
    words = [*(context.get("command_prefix") or ()), "exec", python]
    line = " ".join([*words, *map(shlex.quote, [worker, *rest])])
    os.execvp("bash", ["bash", "-c", line])  # noqa: S607 - as Ray does


if __name__ == "__main__":
    main()
