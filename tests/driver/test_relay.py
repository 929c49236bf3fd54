"""Output of a driver on its way to the cell that it belongs to."""

from __future__ import annotations

from pathlib import Path

from flyte_jupyter.driver import wire
from flyte_jupyter.driver.relay import Relay, TextSink


class Recorder:
    def __init__(self):
        self.seen = []

    def stream(self, name, text):
        self.seen.append((name, text))

    def display(self, content, *, update=False):
        self.seen.append(("update" if update else "display", content["data"]))

    def result(self, content):
        self.seen.append(("result", content["data"]))

    def clear(self, wait):
        self.seen.append(("clear", wait))

    def run(self, function, *args):
        return function(*args)


def message(kind, parent, **content):
    return {"header": {"msg_type": kind}, "parent_header": {"msg_id": parent}, "content": content}


def test_each_message_reaches_the_cell_that_caused_it():
    comms = []
    relay, one, two = Relay(lambda m, sink: comms.append(sink)), Recorder(), Recorder()
    relay.route("a", one)
    relay.route("b", two)
    relay.pass_on(message("stream", "a", name="stdout", text="1"))
    relay.pass_on(message("display_data", "b", data={"text/plain": "2"}))
    relay.pass_on(message("update_display_data", "b", data={"text/plain": "3"}))
    relay.pass_on(message("execute_result", "a", data={"text/plain": "4"}))
    relay.pass_on(message("clear_output", "a", wait=True))
    relay.pass_on(message("comm_open", "b", comm_id="c"))
    relay.pass_on(message("something_new", "a"))
    assert one.seen == [("stdout", "1"), ("result", {"text/plain": "4"}), ("clear", True)]
    assert two.seen == [("display", {"text/plain": "2"}), ("update", {"text/plain": "3"})]
    assert comms == [two]


def test_output_without_a_known_cause_goes_to_the_last_cell():
    relay, one, two = Relay(lambda m, sink: None), Recorder(), Recorder()
    relay.pass_on(message("stream", "?", name="stdout", text="nobody is there"))
    relay.route("a", one)
    relay.route("b", two)
    relay.pass_on(message("stream", "?", name="stdout", text="late"))
    assert (one.seen, two.seen) == ([], [("stdout", "late")])


def test_only_so_many_cells_are_remembered():
    relay, sink = Relay(lambda m, sink: None), Recorder()
    for number in range(1000):
        relay.route(str(number), sink)
    assert relay.sink("0") is None
    assert relay.sink("999") is sink


def test_a_script_gets_text(capsys):
    sink = TextSink()
    sink.stream("stdout", "out\n")
    sink.stream("stderr", "err\n")
    sink.display({"data": {"text/plain": "shown", "text/html": "<b>shown</b>"}})
    sink.result({"data": {"image/png": "..."}})
    sink.clear(True)
    assert sink.run(max, 1, 2) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("out\nshown\n", "err\n")


def test_a_connection_is_sockets_in_the_clusters_folder():
    connection = wire.connection(Path("/run/x"), 3, "key")
    assert connection["transport"] == "ipc"
    assert connection["ip"] == "/run/x/d3"
    ports = [value for name, value in connection.items() if name.endswith("_port")]
    assert sorted(ports) == [1, 2, 3, 4, 5, 6]
    assert connection["signature_scheme"] == "hmac-sha256"
