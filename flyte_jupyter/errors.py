"""The exceptions that a user can meet, all under one root.

Each says three things and nothing else: what failed, what was seen, and what to type next. A
notebook shows them as that one line, without the frames of this package, because a stack of
someone else's frames has never helped anybody to fix a magic line.

Secrets and environment variables never become part of a message.
"""

from __future__ import annotations


class FlyteJupyterError(Exception):
    """Root of everything that this package raises on purpose.

    Parameters
    ----------
    what
        What failed, as the start of a sentence.
    seen
        What was observed: a value, an exit code, the last lines of a log.
    fix
        What the user can type or change next.
    """

    def __init__(self, what: str, *, seen: str = "", fix: str = "") -> None:
        self.what, self.seen, self.fix = what, seen, fix
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        text = f"{self.what}: {self.seen}" if self.seen else self.what
        if not self.fix:
            return text
        return f"{text}\n{self.fix}" if "\n" in self.seen else f"{text}. {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.seen, self.fix)

    def _render_traceback_(self) -> list[str]:
        """Stand in for IPython's traceback; `InteractiveShell.showtraceback` calls this."""
        return [f"\x1b[31m{type(self).__name__}\x1b[0m: {self}"]


def _rebuild(kind: type[FlyteJupyterError], what: str, seen: str, fix: str) -> FlyteJupyterError:
    return kind(what, seen=seen, fix=fix)


def one_line(error: Exception) -> str:
    """Return the type and text of an exception of other code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class UsageError(FlyteJupyterError):
    """A magic line, a setting or an argument that cannot be understood."""


class EnvironmentNotFound(FlyteJupyterError):
    """No environment of that name in the notebook's variables or declarations."""


class EngineError(FlyteJupyterError):
    """An engine that is unknown, not installed, or asked for something impossible."""


class ImageError(FlyteJupyterError):
    """An image whose packages cannot be had here, or that cannot be built."""


class CaptureError(FlyteJupyterError):
    """An input of a cell that is missing, must not travel, or cannot be pickled."""


class ClusterError(FlyteJupyterError):
    """A cluster that did not start, or cannot do what was asked of it."""


class ClusterLost(ClusterError):
    """The cluster went away below a run; the next one provisions anew."""


class DriverLost(ClusterError):
    """The driver process died or was replaced; its cluster is still there."""


class ConnectorError(FlyteJupyterError):
    """A connector that is not there or makes no sense, or a job that cannot be launched or seen."""


class ServiceError(ConnectorError):
    """An external service that did not do what it was asked, and may do it the next time."""


class JobFailed(ConnectorError):
    """An external job that failed in a way that another attempt would not change."""


class DeploymentError(FlyteJupyterError):
    """A Flyte deployment that is not configured, does not take a run, or is out of reach."""


class RefLost(FlyteJupyterError):
    """A ref whose driver is gone, and its value with it."""


class TaskTimeout(FlyteJupyterError, TimeoutError):
    """A run took longer than its time limit."""


class RemoteError(FlyteJupyterError):
    """An exception of remote code whose own type cannot be rebuilt here."""
