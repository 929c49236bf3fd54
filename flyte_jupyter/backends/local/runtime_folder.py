"""The private folder of a local cluster: sockets, certificates, logs, and who owns it.

It lies under Jupyter's runtime folder, is readable by its owner alone, and its name says which
kernel it belongs to, so that a folder without an owner is known at sight, at whatever moment its
owner was killed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flyte_jupyter.backends.local import processes

_NAME = re.compile(r"(?P<pid>\d+)-(?P<start>\d+)-(?P<token>[0-9a-f]{8})")
_SOCKET_PATH_LIMIT = 100  # a Unix socket's path ends at 107 bytes on Linux, 103 on macOS
_LONGEST_NAME = len("/4194304-100000000000-ffffffff/d1000-children")


@dataclass(frozen=True)
class RuntimeFolder:
    """One cluster's folder.

    What is too large for the disk that it is on can be elsewhere: in a folder whose name ends with
    this one's, and to which a link leads from here. It is removed with this one.

    Parameters
    ----------
    path
        Where it is.
    """

    path: Path

    @property
    def mark(self) -> str:
        """The value of `processes.MARK` in the cluster's processes."""
        return self.path.name

    @property
    def kernel_alive(self) -> bool:
        """Whether the kernel that owns it still lives."""
        return _alive(*_owner(self.path.name))

    @property
    def supervisor_alive(self) -> bool:
        """Whether the supervisor that tends it still lives."""
        try:
            pid, start = map(int, (self.path / "supervisor").read_text().split())
        except (OSError, ValueError):
            return False
        return _alive(pid, start)

    def create(self) -> None:
        """Make the folder and write down this process as its supervisor."""
        self.path.mkdir(mode=0o700, parents=True)
        (self.path / "logs").mkdir(mode=0o700)
        pid = os.getpid()
        (self.path / "supervisor").write_text(f"{pid} {processes.start_stamp(pid)}")

    def remove(self) -> None:
        """Delete the folder with all it holds, here and elsewhere."""
        for folder in self._elsewhere():
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _elsewhere(self) -> list[Path]:
        try:
            links = [path.readlink() for path in self.path.iterdir() if path.is_symlink()]
        except OSError:
            return []
        # By its name it is known to be ours: nobody's link can have anything else removed.
        return [folder for folder in links if folder.name.endswith(self.path.name)]


def new() -> RuntimeFolder:
    """Name a folder for a cluster of this process; its supervisor creates it."""
    pid = os.getpid()
    token = _place() + secrets.token_hex(2)
    return RuntimeFolder(parent() / f"{pid}-{processes.start_stamp(pid)}-{token}")


def existing() -> list[RuntimeFolder]:
    """Return the folders of this user's clusters, also of other kernels, but not of other machines.

    A home folder may be shared by machines and containers, whose pids mean nothing here.
    """
    root = parent()
    if not root.is_dir():
        return []
    folders = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
    return [RuntimeFolder(p) for p in folders if p.name.rpartition("-")[2].startswith(_place())]


def _place() -> str:
    """Return four digits that tell where a pid means something: the machine, and the container."""
    try:
        pids = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link that leads nowhere
    except OSError:
        pids = 0
    return hashlib.sha256(f"{platform.node()} {pids}".encode()).hexdigest()[:4]


def parent() -> Path:
    """Return where the folders lie.

    Under Jupyter's runtime folder, unless that path is too long for the sockets in it.
    """
    from jupyter_core.paths import jupyter_runtime_dir

    root = Path(jupyter_runtime_dir()) / "flyte"
    if len(os.fsencode(root)) + _LONGEST_NAME > _SOCKET_PATH_LIMIT:
        root = Path(tempfile.gettempdir()) / f"flyte-jupyter-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if found.st_uid != os.getuid() or not private:
        # A shared temporary folder is a place where somebody else may have been first.
        raise PermissionError(f"{root} must belong to you alone (chmod 700)")
    return root


def _owner(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    return (int(match["pid"]), int(match["start"])) if match else (0, 0)


def _alive(pid: int, stamp: int) -> bool:
    return pid > 0 and processes.start_stamp(pid) == stamp
