"""The driver's side of a Spark cluster: one session, which every cell finds under every name.

`spark`, `SparkSession.builder.getOrCreate()` and `flyte.ctx().data["spark_session"]` are one and
the same: the JVM knows the master and all settings, so whoever asks PySpark for a session gets this
one, Flyte's plugin included. A session that a cell has stopped is made anew for the next.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

import cloudpickle.cloudpickle
import pyspark.cloudpickle.cloudpickle
from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.sql.classic.dataframe import DataFrame

from flyte_jupyter.driver import refs
from flyte_jupyter.engines.engine import Member
from flyte_jupyter.engines.spark import builder, failures, interrupts
from flyte_jupyter.engines.spark.gateway import Gateway
from flyte_jupyter.engines.spark.pages import note_port
from flyte_jupyter.engines.spark.progress import StageProgress
from flyte_jupyter.engines.spark.refusals import Watch
from flyte_jupyter.engines.spark.room import Room
from flyte_jupyter.errors import CaptureError, ClusterError, FlyteJupyterError

_APP = "FlyteSpark"
_PYTHON = "spark.pyspark.python"
_INTERRUPTS = frozenset({"KeyboardInterrupt", "CancelledError"})
_connection: Connection | None = None


def connect(member: Member) -> Mapping[str, Any]:
    """Make this process the driver of a Spark application, with `spark` in every cell.

    Raises
    ------
    EngineError, ClusterError
        There is no session to be had; it is tried again for the next cell.
    """
    global _connection  # noqa: PLW0603
    if _connection is None or not _connection.gateway.alive:
        _connection = Connection(member)
    _connection.begin()
    return _connection


class Connection(Mapping[str, Any]):
    """The names that every cell begins with; looked up anew for each.

    Parameters
    ----------
    member
        The driver.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self.gateway = Gateway(member)
        self._jvm: Any = None
        self._session: Any = None
        self._doubtful = self._clean = False
        self._progress: StageProgress | None = None
        self._watch: Watch | None = None
        self._refused: tuple[Any, ClusterError | None] = (None, None)

    def begin(self) -> None:
        """Wait for what has been started, and make the first session."""
        if self._jvm is None:
            asked = self._member.args["python"] or self._member.args["conf"].get(_PYTHON)
            os.environ["PYSPARK_PYTHON"] = asked or sys.executable
            if not self._clean:
                interrupts.make_clean(self._abandoned, self._cause)
                self._clean = True
            self._jvm = self.gateway.join()
            # Whoever asks for a session, and however: this is the master that it gets.
            address = self._member.wait_for("master")["address"]
            self._jvm.java.lang.System.setProperty("spark.master", address)
            _pickle_local_modules_by_value()
            _show_and_keep_dataframes()
            builder.answer_and_tell()
            _say_less()
            failures.make_readable()
        self.session()
        shell = _shell()
        if self._watch is None:
            room = Room(self._member.wait_for("master")["pages"])
            self._watch = Watch(self._member.folder, room, lambda: self.context, self._give_up)
        if shell is not None and self._progress is None:
            self._progress = StageProgress(lambda: self.context)
            shell.events.register("pre_run_cell", self._before_cell)
            shell.events.register("post_run_cell", self._after_cell)

    def session(self) -> Any:
        """Return the session, a new one if the last was stopped.

        Raises
        ------
        ClusterError
            Spark refuses to make one.
        """
        session = SparkSession._instantiatedSession
        if session is not None and self._doubtful:
            self._doubtful = False
            if session._sc._jsc is not None and session._sc._jsc.sc().isStopped():
                session.stop()  # the JVM has stopped it by itself, which PySpark does not notice
        if session is not None and session is self._session and session._sc._jsc is not None:
            return session
        try:
            session = SparkSession.builder.appName(_APP).getOrCreate()
        except FlyteJupyterError:
            raise
        except Exception as error:  # noqa: BLE001 - of the JVM, or of PySpark's own making
            raise failures.refused(error) from None
        self._session = session
        if page := session.sparkContext.uiWebUrl:
            note_port(self._member.folder, urlsplit(page).port or 0)
        return session

    @property
    def context(self) -> Any:
        """The present Spark context; None if there is none."""
        session = SparkSession._instantiatedSession
        context = session._sc if session is not None else None
        return context if context is not None and context._jsc is not None else None

    def _before_cell(self, info: Any) -> None:
        del info
        if self._progress is not None:
            self._progress.begin()

    def _after_cell(self, result: Any) -> None:
        error = getattr(result, "error_in_exec", None)
        # Without a result it was cancelled while everything awaited something.
        interrupted = result is None or type(error).__name__ in _INTERRUPTS
        failed = error is not None or interrupted
        self._doubtful = self._doubtful or failed
        if interrupted and (context := self.context):
            context.cancelAllJobs()
        if self._progress is not None:
            self._progress.end(failed=failed)

    def _abandoned(self) -> None:
        """Cancel what a command has begun that nobody waits for, whatever the cell makes of it."""
        with contextlib.suppress(Exception):  # it is the interrupt that is told
            if context := self.context:
                context.cancelAllJobs()
            if session := SparkSession._instantiatedSession:
                # The JVM keeps it by thread, and the next command comes on another.
                session._jvm.SparkSession.setActiveSession(session._jsparkSession)

    def _give_up(self, context: Any, error: ClusterError) -> None:
        """Stop an application that gets no executors; the next cell has another."""
        self._refused = context, error
        self._doubtful = True
        context._jsc.sc().stop()

    def _cause(self) -> Exception | None:
        """Return why commands fail, where it is not what the JVM says."""
        context, error = self._refused
        return copy.copy(error) if SparkContext._active_spark_context is context else None

    def __getitem__(self, name: str) -> Any:
        if name != "spark":
            raise KeyError(name)
        return self.session()

    def __iter__(self) -> Iterator[str]:
        return iter(("spark",))

    def __len__(self) -> int:
        return 1


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


def _pickle_local_modules_by_value() -> None:
    """Have PySpark, which brings a cloudpickle of its own, know the same modules."""
    theirs, ours = pyspark.cloudpickle.cloudpickle, cloudpickle.cloudpickle
    theirs._PICKLE_BY_VALUE_MODULES = ours._PICKLE_BY_VALUE_MODULES


def _show_and_keep_dataframes() -> None:
    """Have a kept DataFrame say its columns, and one that is to travel what to do instead."""
    refs.previews[DataFrame] = _columns
    copyreg.pickle(DataFrame, _refuse)


def _say_less() -> None:
    """Keep out of cells what is in the exception anyway, or is no concern of theirs."""
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        logging.getLogger(name).disabled = True
    # Py4J tells the root logger and its own of every failed connection, frames and all.
    logging.getLogger().addFilter(lambda record: "while sending command" not in str(record.msg))
    logging.getLogger("py4j").propagate = False
    logging.getLogger("py4j").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")


def _columns(frame: Any) -> str:
    return "DataFrame[{}]".format(", ".join(f"{name}: {kind}" for name, kind in frame.dtypes))


def _refuse(frame: Any) -> NoReturn:
    raise CaptureError(
        "a Spark DataFrame lives in its session and cannot be sent",
        seen=_columns(frame),
        fix="Keep it there with -r, or return what toPandas() gives.",
    )
