"""From what a driver publishes to what the notebook shows, in the cell that it belongs to.

Every message of the driver names the request that caused it. The relay keeps, for each request, the
place where its output goes: the context of the cell that started it, whichever cell runs by now.
That is how background runs, threads that print late, and callbacks of widgets end up where they
should.
"""

from __future__ import annotations

import contextvars
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

_ROUTES = 512
"""Requests whose late output still finds its cell; older ones fall back to the last."""


class Sink(Protocol):
    """A place where output of a run goes."""

    def stream(self, name: str, text: str) -> None:
        """Write text of ``stdout`` or ``stderr``."""

    def display(self, content: dict[str, Any], *, update: bool = False) -> None:
        """Show a mime bundle, or update the one of the same display id."""

    def result(self, content: dict[str, Any]) -> None:
        """Show the value of the cell's last expression."""

    def clear(self, wait: bool) -> None:
        """Clear what the cell shows."""

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something whose own output belongs here."""

    def message(self) -> str:
        """Return the id of the page's message whose output this is; empty if there is none."""


class TextSink:
    """Output without a notebook: a script, or a program under test."""

    def stream(self, name: str, text: str) -> None:
        """Write to this process's own stream."""
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()

    def display(self, content: dict[str, Any], *, update: bool = False) -> None:
        """Print what a terminal can show of it."""
        del update
        if text := content["data"].get("text/plain"):
            self.stream("stdout", f"{text}\n")

    result = display

    def clear(self, wait: bool) -> None:
        """Do nothing: text that was printed stays."""

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it."""
        return function(*args)

    def message(self) -> str:
        """Return nothing: there is no page."""
        return ""


class NotebookSink:
    """Output of the IPython cell in whose context this was made.

    It goes through the shell's own publishers, called in that context: ipykernel then addresses the
    right cell, and `%%capture` and `ipywidgets.Output` see it as they see any other output.

    Parameters
    ----------
    shell
        The notebook's IPython shell.
    count
        The ``n`` of the cell's ``Out[n]``.
    """

    def __init__(self, shell: Any, count: int = 0) -> None:
        self._shell = shell
        self._context = contextvars.copy_context()
        # As they are now: a later cell may be captured, and this output is not that cell's.
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._display_pub = shell.display_pub
        self._displayhook = sys.displayhook
        self.count = count or shell.execution_count

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something in the context of the cell."""
        # A context can be entered once at a time; its copies share what matters here.
        return self._context.copy().run(function, *args)

    def message(self) -> str:
        """Return the id of the request that runs the cell."""
        parent = self.run(lambda: getattr(self._shell.display_pub, "parent_header", None))
        return str((parent or {}).get("msg_id", ""))

    def stream(self, name: str, text: str) -> None:
        """Write to the cell's stream, at once."""
        self.run(_write, self._streams[name], text)

    def display(self, content: dict[str, Any], *, update: bool = False) -> None:
        """Publish a mime bundle in the cell."""
        self.run(self._publish, content, update)

    def _publish(self, content: dict[str, Any], update: bool) -> None:
        data = content["data"]
        if not hasattr(self._shell, "kernel") and "text/plain" in data and len(data) > 1:
            # A terminal shows the text; the rest would only be refused.
            data = {"text/plain": data["text/plain"]}
        self._display_pub.publish(
            data=data,
            metadata=content.get("metadata") or {},
            transient=content.get("transient") or {},
            update=update,
        )

    def result(self, content: dict[str, Any]) -> None:
        """Show the last expression's value as the ``Out[n]`` of the cell."""
        self.run(self._show_result, content)

    def _show_result(self, content: dict[str, Any]) -> None:
        captured = _captured(self._displayhook)
        hook: Any = self._displayhook if captured else self._shell.displayhook
        if not hasattr(hook, "pub_socket") or _captured(self._display_pub):
            self._publish(content, False)
            return
        hook.session.send(
            hook.pub_socket,
            "execute_result",
            {**content, "execution_count": self.count},
            parent=hook.parent_header,
            ident=hook.topic,
        )

    def clear(self, wait: bool) -> None:
        """Clear the cell's output."""
        self.run(self._display_pub.clear_output, wait)


def _captured(publisher: Any) -> bool:
    return "Captur" in type(publisher).__name__


def _write(stream: Any, text: str) -> None:
    stream.write(text)
    stream.flush()


class Relay:
    """Takes the messages of one driver to their sinks.

    Parameters
    ----------
    on_comm
        Called with every comm message, and the sink of what caused it.
    """

    def __init__(self, on_comm: Callable[[dict[str, Any], Sink], None]) -> None:
        self._on_comm = on_comm
        self._sinks: OrderedDict[str, Sink] = OrderedDict()
        self._under_way: set[str] = set()

    def route(self, message: str, sink: Sink, *, until_ended: bool = False) -> None:
        """Send what `message` causes to `sink`; for long, or at least until `end`."""
        self._sinks[message] = sink
        if until_ended:
            self._under_way.add(message)
        while len(self._sinks) > _ROUTES + len(self._under_way):
            self._sinks.pop(next(name for name in self._sinks if name not in self._under_way))

    def end(self, message: str) -> None:
        """Expect no more than late output of a message."""
        self._under_way.discard(message)

    def sink(self, message: str) -> Sink | None:
        """Return where output of a request goes, if it is still known."""
        return self._sinks.get(message)

    def pass_on(self, message: dict[str, Any]) -> None:
        """Show one message of the driver's output channel."""
        kind = message["header"]["msg_type"]
        content = message["content"]
        parent = message["parent_header"].get("msg_id", "")
        sink = self._sinks.get(parent) or next(reversed(self._sinks.values()), None)
        if sink is None:
            return
        if kind == "stream":
            sink.stream(content["name"], content["text"])
        elif kind in ("display_data", "update_display_data"):
            sink.display(content, update=kind == "update_display_data")
        elif kind == "execute_result":
            sink.result(content)
        elif kind == "clear_output":
            sink.clear(content.get("wait", False))
        elif kind.startswith("comm_"):
            self._on_comm(message, sink)
