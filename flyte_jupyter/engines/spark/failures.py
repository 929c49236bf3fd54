"""Spark's exceptions, as a notebook should see them: what they say, and no frames of a JVM.

PySpark's own classes hold an object of the JVM, which cannot travel. They arrive as what they
derive from in `pyspark.errors`, so that ``except AnalysisException`` in the notebook means what it
says.
"""

from __future__ import annotations

import copyreg
import re
from collections.abc import Sequence
from typing import Any

from flyte_jupyter.errors import ClusterError, RemoteError

_FRAME = re.compile(r"\s+at \S|\s*\.\.\. \d+ more|Driver stacktrace:")


def reason(error: BaseException) -> str:
    """Return the first line of what an exception of Spark's says, and of its last cause."""
    cause: Any = getattr(error, "java_exception", None)
    text = str(error)
    while cause is not None:
        text = str(cause.getMessage() or cause.toString())
        cause = cause.getCause()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def refused(error: BaseException) -> ClusterError:
    """Say in one line that there is no session, and why."""
    return ClusterError(
        "Spark made no session",
        seen=reason(error),
        fix="If a key of spark_conf is to blame, declare the environment without it.",
    )


def no_executors(said: str) -> ClusterError:
    """Say in one line that an application gets no executors, and why."""
    return ClusterError(
        "Spark's executors end before they have begun",
        seen=said,
        fix="If a key of spark_conf is to blame, declare the environment without it. "
        "See %flyte logs ENV worker-0.",
    )


def no_room(lack: str) -> ClusterError:
    """Say in one line that no worker can have an executor of an application, and why."""
    return ClusterError(
        "no worker of the cluster has room for an executor",
        seen=lack,
        fix="Workers are made for what Spark(spark_conf=...) says of executors: say it there.",
    )


def telling(lines: Sequence[str]) -> str:
    """Return the line in which a JVM that did not start says why; empty if it said nothing."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if "rror" in line or "xception" in line or "nvalid" in line]
    return (errors or said or [""])[0]


def message(error: Any) -> str:
    """Return all that a Java exception says, less the frames in it."""
    lines = str(error.java_exception.toString()).splitlines()
    return "\n".join(line for line in lines if line.strip() and not _FRAME.match(line))


def make_readable() -> None:
    """Have exceptions of PySpark's say what they have to say, and travel to the notebook."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors.exceptions.captured import CapturedException

    Py4JJavaError.__str__ = message
    copyreg.pickle(Py4JJavaError, _reduce_java)
    kinds = [CapturedException]
    while kinds:
        kind = kinds.pop()
        copyreg.pickle(kind, _reduce)
        kinds += kind.__subclasses__()


def _reduce(error: Any) -> tuple[Any, ...]:
    return rebuild, (type(error).__name__, str(error), _condition(error))


def _condition(error: Any) -> tuple[Any, ...]:
    """Return by what code tells an exception from others: its condition, and the words in it."""
    try:
        return error.getCondition(), error.getMessageParameters()
    except Exception:  # noqa: BLE001 - the JVM is gone; the exception itself must come
        return ()


def _reduce_java(error: Any) -> tuple[Any, ...]:
    name = error.java_exception.getClass().getName()
    return rebuild, (name, reason(error))


def rebuild(name: str, text: str, condition: tuple[Any, ...] = ()) -> Exception:
    """Make an exception of `pyspark.errors` again, or say what it was.

    Parameters
    ----------
    name, text
        Its class and what it says.
    condition
        Its condition and the parameters of that; empty if they are not known.
    """
    import pyspark.errors

    kind = getattr(pyspark.errors, name, None)
    if isinstance(kind, type) and issubclass(kind, pyspark.errors.PySparkException):
        # It puts its condition before what it says by itself.
        own = text.removeprefix(f"[{condition[0]}] ") if condition else text
        error: Exception = kind(own, *condition)
        return error
    return RemoteError(name, seen=text)
