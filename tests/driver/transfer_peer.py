"""The other process of the two-process tests: unpacks what it is sent and runs code on it.

It speaks length-prefixed messages over its standard streams: a header in JSON, then frames.
"""

import json
import struct
import sys
from pathlib import Path

from flyte_jupyter.driver.values.transfer import KeptBuffers, SentBuffers, pack, unpack


def write_message(stream, head, frames=()):
    head = json.dumps({"head": head, "frames": [len(frame) for frame in frames]}).encode()
    stream.write(struct.pack("!Q", len(head)) + head)
    for frame in frames:
        stream.write(frame)
    stream.flush()


def read_message(stream):
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise EOFError
    message = json.loads(stream.read(*struct.unpack("!Q", prefix)))
    return message["head"], [stream.read(size) for size in message["frames"]]


def main():
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    kept, sent = KeptBuffers(), SentBuffers()
    while True:
        try:
            head, frames = read_message(source)
        except EOFError:
            return
        names = unpack(head["header"], frames, kept=kept)
        del frames
        scope = {**names, "kept": kept, "Path": Path}
        del names
        exec(head["code"], scope)
        parcel = pack({"out": scope.pop("out", None)}, sent=sent)
        del scope
        write_message(sink, parcel.header, parcel.frames)
        if read_message(source)[0] == "ack":
            parcel.confirm()
        parcel.close()


if __name__ == "__main__":
    main()
