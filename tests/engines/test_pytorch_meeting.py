import contextlib
import os
import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from flyte_jupyter.engines.pytorch.meeting import Meeting


@pytest.fixture
def meeting(tmp_path):
    return Meeting(tmp_path / "meet")


def test_what_one_node_leaves_there_another_finds(meeting):
    there, here = (dist.FileStore(str(meeting.store), -1) for _ in range(2))
    there.set("who", "node 1")
    assert here.get("who") == b"node 1"


def test_nobody_else_can_look_into_it(meeting):
    assert meeting.store.parent.stat().st_mode & 0o777 == 0o700


def test_a_store_that_is_still_in_use_does_not_make_it_anew(meeting, tmp_path):
    store = dist.FileStore(str(meeting.store), -1)
    store.set_timeout(timedelta(seconds=0.1))
    store.set("who", "node 1")
    meeting.close()
    with pytest.raises(dist.DistError, match="No such file"):
        store.set("who", "node 2")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_however_busy_it_is(tmp_path):
    over = threading.Event()

    def write():
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(tmp_path / "meet" / "store", os.O_RDWR | os.O_CREAT))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            Meeting(tmp_path / "meet").close()
    finally:
        over.set()
        writer.join()
    assert not list(tmp_path.iterdir())


def test_it_may_be_closed_twice(meeting):
    meeting.close()
    meeting.close()
