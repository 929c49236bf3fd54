"""Finding the benchmark's processes, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

TOKEN = "FLYTE_JUPYTER_BENCH"
"""Variable that every process started from a notebook inherits; its value is the notebook's."""


def new_token() -> str:
    """Return a token for another notebook of this benchmark."""
    return f"{_benchmark()}{secrets.token_hex(8)}"


def _benchmark() -> str:
    return f"{os.getpid()}-"


def end_all() -> None:
    """Kill what any notebook of this benchmark has left."""
    end(with_token(_benchmark()))


def with_token(token: str) -> list[psutil.Process]:
    """Return the living processes whose token begins like that."""
    return [process for process in psutil.process_iter() if _has(process, token)]


def _has(process: psutil.Process, token: str) -> bool:
    try:
        found = process.environ().get(TOKEN, "")
        living = process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False
    return living and found.startswith(token)


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    found = list(processes)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=5)


def folders_of(kernel: int) -> list[Path]:
    """Return the runtime folders of a kernel's clusters."""
    root = Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "flyte"
    return list(root.glob(f"{kernel}-*"))


def until_gone(left: Callable[[], Iterable[object]], limit: float) -> float:
    """Wait until `left` returns nothing, and return the seconds that it took; at most `limit`."""
    start = time.monotonic()
    while time.monotonic() < start + limit:
        if not list(left()):
            break
        time.sleep(0.01)
    return time.monotonic() - start


def listening(place: Path, processes: Iterable[psutil.Process]) -> list[str]:
    """Return the TCP ports on which processes listen, and Unix sockets bound below a folder."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            ports = process.net_connections(kind="tcp")
            found += [str(port.laddr) for port in ports if port.status == psutil.CONN_LISTEN]
    names = (line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines())
    return found + [name for name in names if name.startswith(f"{place}/run/flyte/")]


def ownerless_segments(before: set[str]) -> list[str]:
    """Return the entries of ``/dev/shm`` that are new and that no living process has open."""
    new = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")} - before
    if not new:
        return []
    held: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (process / "maps").read_text()
            held |= {name for name in new if name in text}
            held |= {os.readlink(fd) for fd in (process / "fd").iterdir()}
    return sorted(new - held)
