"""Interrupts of a cell that waits for the JVM: at once, and with a connection that works after it.

Py4J sends a command, and reads its answer, from the thread that has called. Interrupted in the
midst of that, it searches for the connection's socket on both sides to have it closed, and the
commands that come next meet a closed one, or the answer to another. So an interrupt is let in only
before a command is sent and where its answer is waited for; then the connection is given up as a
whole, and the next command has a new one, which is another thread of the JVM's. The jobs that run
there are cancelled; a command that has none yet goes on by itself.
"""

from __future__ import annotations

import contextlib
import functools
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from py4j.clientserver import ClientServerConnection, JavaClient
from py4j.protocol import is_error
from pyspark import SparkContext
from pyspark.sql.pandas import conversion

from flyte_jupyter.driver import interrupts


class _Abandoned(BaseException):
    """An interrupt while an answer is waited for: nothing in Py4J knows it, so nothing stops it."""


class _Line:
    """A connection's socket, which after each sending waits until there is something to read.

    Parameters
    ----------
    socket
        The socket that it stands for.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        try:
            interrupts.let_in(lambda: None)
            self._socket.sendall(data)
            interrupts.let_in(self._await_answer)
        except KeyboardInterrupt:
            raise _Abandoned from None

    def _await_answer(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.poll()


def make_clean(abandoned: Callable[[], None], cause: Callable[[], Exception | None]) -> None:
    """Have commands of Py4J's be interrupted as a whole or not at all; once in a process.

    Parameters
    ----------
    abandoned
        Called when a command was given up, before the interrupt is raised.
    cause
        Called when one has failed; returns what to raise instead of what the JVM says, if anything.
    """
    connect = ClientServerConnection.connect_to_java_server
    send = JavaClient.send_command

    @functools.wraps(connect)
    def connect_to_java_server(self: Any) -> None:
        connect(self)
        if threading.current_thread() is threading.main_thread():  # the others are not interrupted
            self.socket = _Line(self.socket)

    @functools.wraps(send)
    def send_command(self: Any, *args: Any, **kwargs: Any) -> Any:
        with interrupts.held():
            try:
                answer = send(self, *args, **kwargs)
                if isinstance(answer, str) and is_error(answer)[0] and (error := cause()):
                    raise error
                return answer
            except _Abandoned:
                _give_up(self)
                abandoned()
        raise KeyboardInterrupt

    ClientServerConnection.connect_to_java_server = connect_to_java_server
    JavaClient.send_command = send_command
    _cancel_frames_on_their_way(abandoned)
    SparkContext.__init__ = _keeping_the_handler(SparkContext.__init__)


def _cancel_frames_on_their_way(abandoned: Callable[[], None]) -> None:
    """Have the job of a frame that becomes one of pandas' be cancelled by an interrupt.

    The JVM runs it while its answer is read from a socket that is not Py4J's. PySpark then waits
    for the end of the job, whatever has struck; that it was cancelled is not what is to be told.
    """
    load, unwrap = conversion._load_from_socket, conversion.unwrap_spark_exception
    struck = threading.local()

    @contextlib.contextmanager
    def load_from_socket(*args: Any) -> Iterator[Any]:
        try:
            with load(*args) as stream:
                yield stream
        except KeyboardInterrupt:
            struck.here = True
            abandoned()
            raise

    @contextlib.contextmanager
    def unwrap_spark_exception() -> Iterator[Any]:
        if getattr(struck, "here", False):
            struck.here = False
            with contextlib.suppress(Exception):
                yield
            return
        with unwrap():
            yield

    conversion._load_from_socket = load_from_socket
    conversion.unwrap_spark_exception = unwrap_spark_exception


def _give_up(client: Any) -> None:
    """Close this thread's connection, on which an answer is due, and have the next be a new one."""
    connection = client.get_thread_connection()
    client.thread_connection.connection = None
    if connection is not None:
        connection.close()


def _keeping_the_handler(init: Callable[..., None]) -> Callable[..., None]:
    """Leave SIGINT to the driver: the handler of a context's own sends a command within another."""

    @functools.wraps(init)
    def keeping(self: Any, *args: Any, **kwargs: Any) -> None:
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        try:
            init(self, *args, **kwargs)
        finally:
            if main:
                signal.signal(signal.SIGINT, before)

    return keeping
