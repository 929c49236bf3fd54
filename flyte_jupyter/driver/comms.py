"""Comms between the notebook's page and a driver: what makes remote widgets live.

A widget made by remote code opens a comm in its driver. Here a comm of the same id is opened
towards the page, and what either side says is handed to the other, buffers included. The kernel
builds no widget of its own; it needs not even ipywidgets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flyte_jupyter.driver.relay import Sink

_WIDGET = "jupyter.widget"
_CONTROL = "jupyter.widget.control"
_OUTPUT = "OutputModel"
"""The widget that takes the output of a message, of which it has the id."""


def _answer_for_all_widgets() -> None:
    """Have a reloaded page ask each widget for its state, instead of the kernel for all.

    The kernel's ipywidgets would answer for its own only, and the page would take remote widgets
    for dead. Told that nobody answers for all, it asks each comm, and those are bridged.
    """
    from comm import get_comm_manager

    get_comm_manager().register_target(_CONTROL, lambda comm, message: comm.close())


def _state(data: Any) -> dict[str, Any]:
    """Return the state that a widget's message tells; other comms say what they like."""
    state = data.get("state") if isinstance(data, dict) else None
    return state if isinstance(state, dict) else {}


class CommBridge:
    """The comms of one driver.

    Parameters
    ----------
    forward
        Called with the type, content, metadata and buffers of a message for the driver; on whatever
        thread the page's message was read.
    sink_of
        Returns where output of a message of the driver's goes, by its id; None if nobody knows.
    """

    def __init__(
        self,
        forward: Callable[[str, dict[str, Any], dict[str, Any], list[Any]], None],
        sink_of: Callable[[str], Sink | None],
    ) -> None:
        self._forward, self._sink_of = forward, sink_of
        self._comms: dict[str, Any] = {}
        self._outputs: set[str] = set()

    def from_driver(self, message: dict[str, Any], sink: Sink) -> None:
        """Hand a comm message of the driver to the page."""
        kind, content = message["header"]["msg_type"], message["content"]
        name = content["comm_id"]
        state = _state(content.get("data"))
        if kind == "comm_open" and state.get("_model_name") == _OUTPUT:
            self._outputs.add(name)
        elif kind == "comm_close":
            self._outputs.discard(name)
        if name in self._outputs and state.get("msg_id"):
            state = {**state, "msg_id": self._known_to_page(state["msg_id"])}
            content = {**content, "data": {**content["data"], "state": state}}
        rest = {
            "data": content.get("data"),
            "metadata": message.get("metadata"),
            "buffers": message.get("buffers"),
        }
        if kind == "comm_open":
            self._comms[name] = sink.run(lambda: self._open(content, rest))
        elif comm := self._comms.get(name):
            if kind == "comm_close":
                del self._comms[name]
                sink.run(lambda: comm.close(**rest))
            else:
                sink.run(lambda: comm.send(**rest))

    def _known_to_page(self, message: str) -> str:
        """Return the id of the page's message that had the driver send one."""
        sink = self._sink_of(message)
        return sink.message() if sink else message

    def _open(self, content: dict[str, Any], rest: dict[str, Any]) -> Any:
        from comm import create_comm

        comm = create_comm(
            comm_id=content["comm_id"],
            target_name=content["target_name"],
            target_module=content.get("target_module"),
            **rest,
        )
        comm.on_msg(lambda message: self._to_driver("comm_msg", message))
        comm.on_close(lambda message: self._to_driver("comm_close", message))
        if content["target_name"] == _WIDGET:
            _answer_for_all_widgets()
        return comm

    def _to_driver(self, kind: str, message: dict[str, Any]) -> None:
        content = message["content"]
        if kind == "comm_close":
            self._comms.pop(content["comm_id"], None)
        self._forward(kind, content, message.get("metadata") or {}, message.get("buffers") or [])

    def close(self) -> None:
        """Close every comm towards the page; its widgets then show that they are dead."""
        comms, self._comms = self._comms, {}
        for comm in comms.values():
            comm.close()
