"""Have an interrupt heard that came just before the main thread began to wait.

CPython only notes a signal when it comes, and calls its handler when the main thread next looks.
One that comes between the last look and a system call that waits, as in `time.sleep(600)`, is not
seen before that call ends: with two busy cores one interrupt in sixty of a cell that was about to
sleep. CPython also writes each signal to a descriptor (`signal.set_wakeup_fd`); a thread reads it
here, and sends the main thread a second signal, which does nothing but end its system call, until
the handler has been called.
"""

from __future__ import annotations

import os
import signal
import socket
import threading

_PAUSES = [0.01 * 2**n for n in range(9)]
"""Seconds between one try and the next, 5 in all: code that does not wait may be long in C."""
_PROD = signal.SIGURG  # whose default is to be ignored


class Wakeup:
    """Sees to it that the handler of SIGINT is called, from `begin` to `end`."""

    def __init__(self) -> None:
        self._process = 0
        self._heard = threading.Event()
        self._writer: socket.socket | None = None
        self._before = -1

    def begin(self) -> None:
        """Watch; on the main thread."""
        if self._process != os.getpid():
            self._start()
        assert self._writer is not None
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def end(self) -> None:
        """Watch no more."""
        signal.set_wakeup_fd(self._before)

    def heard(self) -> None:
        """Say that the handler has been called."""
        self._heard.set()

    def _start(self) -> None:
        self._process = os.getpid()  # a thread does not survive a fork
        self._heard = threading.Event()
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.signal(_PROD, lambda *_: None)
        threading.Thread(target=self._watch, args=(reader,), name="wakeup", daemon=True).start()

    def _watch(self, reader: socket.socket) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while signals := reader.recv(64):
            if signal.SIGINT not in signals:
                continue
            for pause in _PAUSES:
                if self._heard.wait(pause):
                    break
                signal.pthread_kill(main, _PROD)
            self._heard.clear()
