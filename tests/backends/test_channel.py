"""JSON lines with descriptors beside them."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyte_jupyter.backends.local.channel import Channel


@pytest.fixture
def ends():
    ours, theirs = (Channel(sock) for sock in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=5))
def test_messages_arrive_as_they_were_sent_and_in_order(messages):
    ours, theirs = (Channel(sock) for sock in socket.socketpair())
    for message in messages:
        ours.send(message)
    ours.close()
    assert list(theirs) == messages
    theirs.close()


def test_a_message_larger_than_the_sockets_buffer_arrives_whole(ends):
    ours, theirs = ends
    message = {"text": "ü" * 2**20}
    read, write = os.pipe()
    sender = threading.Thread(target=ours.send, args=(message, [write]))
    sender.start()
    received = []
    while not received:
        received += theirs.receive()
    sender.join()
    assert received == [message]
    assert len(theirs.fds) == 1
    for fd in (read, write, *theirs.fds):
        os.close(fd)


def test_descriptors_arrive_in_order_and_are_copies(ends):
    ours, theirs = ends
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(pipes):
        ours.send({"number": number}, [write])
        os.close(write)
    received = []
    while len(received) < 3:
        received += theirs.receive()
    assert [m["number"] for m in received] == [0, 1, 2]
    for (read, _), fd in zip(pipes, theirs.fds, strict=True):
        os.write(fd, b"hello")
        assert os.read(read, 10) == b"hello"
        os.close(read)
        os.close(fd)


def test_half_a_message_waits_for_the_rest(ends):
    ours, theirs = ends
    ours.sock.sendall(b'{"a": 1}\n{"b"')
    assert theirs.receive() == [{"a": 1}]
    ours.sock.sendall(b": 2}\n")
    assert theirs.receive() == [{"b": 2}]


def test_the_end_is_told_from_silence(ends):
    ours, theirs = ends
    ours.close()
    assert theirs.receive() is None
    with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
        theirs.send({"is": "anybody there?"})
