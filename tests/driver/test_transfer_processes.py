"""Values between two real processes: right, private on both sides, once in memory, and no leaks."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.segments import memfd_supported
from flyte_jupyter.driver.values.transfer import KeptBuffers, SentBuffers, pack, unpack
from tests import leaks

SCRIPT = Path(__file__).with_name("transfer_peer.py")
spec = importlib.util.spec_from_file_location("transfer_peer", SCRIPT)
wire = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wire)

MIB = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Peer:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.sent, self.kept = SentBuffers(), KeptBuffers()

    def send(self, code, values, **options):
        """Run `code` on `values` over there; its `out` comes back."""
        parcel = pack(values, sent=self.sent, **options)
        head = {"header": parcel.header, "code": code}
        wire.write_message(self.process.stdin, head, parcel.frames)
        return parcel

    def receive(self, parcel):
        header, frames = wire.read_message(self.process.stdout)
        parcel.confirm()
        out = unpack(header, frames, kept=self.kept)["out"]
        wire.write_message(self.process.stdin, "ack")
        return out

    def run(self, code, **values):
        return self.receive(self.send(code, values))

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.kept.clear()


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.close()


def anonymous(pid="self"):
    """Bytes of a process that are neither a file's nor a segment's: what it has copied."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def holders(record):
    """Find the processes that have a segment open or mapped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f" {record['ino']} /memfd:flyte-jupyter" in (process / "maps").read_text():
                found.add(int(process.name))
        for fd in (process / "fd").glob("*"):
            with contextlib.suppress(OSError):
                status = fd.stat()
                if (status.st_ino, status.st_dev) == (record["ino"], record["dev"]):
                    found.add(int(process.name))
    return found


@pytest.mark.parametrize("size", [10, 100_000, 5 * MIB])
def test_arrays_go_and_come_back_and_may_be_written_to(peer, size):
    mine = np.ones(size, np.uint8)
    out = peer.run("a[:] += 1; out = [a, b]", a=mine, b={"text": "é", "a": mine[::2]})
    assert (mine == 1).all()
    assert (out[0] == 2).all()
    assert (out[1]["a"] == 1).all()
    out[0][:] = 9
    assert (peer.run("out = a", a=out[0]) == 9).all()


def test_files_take_the_place_of_memfds(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "memfd_supported", lambda: False)
    mine = np.arange(MIB)
    parcel = peer.send("out = a.sum()", {"a": mine}, folder=tmp_path)
    assert Path(parcel.header["segments"][0]["path"]).parent == tmp_path
    assert peer.receive(parcel) == mine.sum()
    assert not list(tmp_path.iterdir())


def test_unchanged_input_is_not_sent_twice_though_it_was_written_to_over_there(peer):
    mine = np.arange(MIB)
    for _ in range(3):
        assert peer.run("out = a.sum(); a[:] = 0", a=mine) == mine.sum()
    parcel = peer.send("out = len(kept)", {"a": mine})
    assert parcel.header["segments"] == []
    assert peer.receive(parcel) == 1


@LINUX
@pytest.mark.parametrize("supported", [True, False])
def test_descriptors_and_mappings_do_not_add_up(peer, tmp_path, monkeypatch, supported):
    monkeypatch.setattr(transfer, "memfd_supported", lambda: supported)

    def both():
        here = len(os.listdir("/proc/self/fd")) - len(peer.kept)
        return here, peer.run("out = len(list(Path('/proc/self/fd').iterdir())) - len(kept)")

    peer.run("out = a", a=np.zeros(MIB))
    before = both()
    for seed in range(20):
        values = {"a": np.full(MIB, seed, "i4"), "b": np.full(100_000, seed)}
        peer.receive(peer.send("out = a, b", values, folder=tmp_path))
    assert all(now <= then for now, then in zip(both(), before, strict=True))
    assert not list(tmp_path.iterdir())


@LINUX
def test_a_large_array_is_in_memory_once_more_and_not_twice(peer):
    size = 256 * MIB
    mine = np.ones(size, np.uint8)
    code = (
        "a[0] = 2; total = int(a.sum())\n"
        "lines = Path('/proc/self/smaps_rollup').read_text().splitlines()\n"
        "out = total, next(int(l.split()[1]) * 1024 for l in lines if l.startswith('Anonymous:'))"
    )
    peer.sent = None
    _, there = peer.run(code, a=np.ones(1, np.uint8))
    here = anonymous()
    parcel = peer.send(code, {"a": mine})
    assert sum(record["size"] for record in parcel.header["segments"]) < 1.1 * size
    assert anonymous() - here < 0.1 * size
    total, after = peer.receive(parcel)
    assert total == size + 1
    assert after - there < 0.1 * size


@LINUX
def test_packing_and_unpacking_copy_nothing_else():
    """The high-water mark, in a process of its own, because it never goes down again."""
    code = """
import resource, sys
import numpy as np
from flyte_jupyter.driver.values.transfer import pack, unpack
def peak():
    lines = open('/proc/self/status').read().splitlines()
    return {l.split(':')[0]: int(l.split()[1]) for l in lines if l.startswith(('VmHWM', 'RssAnon'))}
small = pack({'a': np.ones(1 << 20, np.uint8)})  # what is imported on the way is none of it
unpack(small.header, small.frames)
small.close()
a = np.ones(256 << 20, np.uint8)
start = peak()['VmHWM']
parcel = pack({'a': a})
packed = peak()['VmHWM']
b = unpack(parcel.header, parcel.frames)['a']
parcel.close()
assert b[-1] == 1
print(packed - start, peak()['VmHWM'] - packed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    packing, unpacking = (int(kib) * 1024 for kib in done.stdout.split())
    assert packing < 26 * MIB
    assert unpacking < 26 * MIB


@pytest.mark.skipif(not memfd_supported(), reason="no memfd on this system")
def test_killed_processes_leave_nothing(peer):
    code = "a[:] = 2; import os; os.kill(os.getpid(), 9)"
    parcel = peer.send(code, {"a": np.ones(5 * MIB, np.uint8)})
    assert holders(parcel.header["segments"][0]) >= {os.getpid()}
    assert peer.process.wait() == -signal.SIGKILL
    parcel.close()
    assert holders(parcel.header["segments"][0]) == set()


@pytest.mark.skipif(not memfd_supported(), reason="no memfd on this system")
def test_many_results_can_be_held(peer):
    """More than the usual limit of open files would allow if each held one."""
    before = leaks.descriptors()
    results = [peer.run("out = bytearray(300_000); out = memoryview(out)") for _ in range(300)]
    assert not leaks.descriptors() - before
    assert all(len(each) == 300_000 for each in results)
