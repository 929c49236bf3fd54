"""Members that are not wanted any more: they hand over what they hold, and nobody hurries them."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from backend_parts import DEADLINE, alive, appears, gone, members

from flyte_jupyter.engines.engine import Role

HOLDER = Role("holder", "retiring_members:hold", replicas=3, scalable=True)


def states(status):
    return [(m["index"], m["state"]) for m in members(status, "holder")]


async def shrink(each, retire, replicas=1):
    """Start a cluster and scale it down; returns its folder once members retire."""
    await each.create(HOLDER, retire=f"retiring_members:{retire}")
    await each.ready()
    folder = each.backend.folder("toy")
    await each.backend.scale("toy", "holder", replicas)
    await appears(folder / "retiring")
    return folder


async def test_members_are_not_ended_while_they_hand_over_what_they_hold(watched):
    each = watched()
    folder = await shrink(each, "retire_when_told")
    status = await each.until(
        lambda s: states(s) == [(0, "ready"), (1, "retiring"), (2, "retiring")]
    )
    # The one wait by the clock: that something does not happen, after the time when it once did.
    await asyncio.sleep(11)
    assert all(alive(m["pid"]) for m in members(status, "holder"))
    (folder / "handed-over").touch()
    status = await each.until(lambda s: states(s) == [(0, "ready")])
    assert status["state"] == "ready"


async def test_a_cluster_goes_at_once_while_members_retire(watched):
    each = watched()
    folder = await shrink(each, "retire_when_told")
    pids = [m["pid"] for m in each.told[-1][1]["members"]]
    pids.append(int((folder / "retiring").read_text()))
    async with asyncio.timeout(DEADLINE):  # nobody says that anything has been handed over
        await each.backend.delete("toy")
    assert not any(map(alive, pids))


async def test_not_even_a_retirement_that_listens_to_nobody_outlives_its_cluster(watched):
    each = watched()
    folder = await shrink(each, "retire_for_ever")
    retirement = int((folder / "retiring").read_text())
    await each.backend.delete("toy")
    assert not alive(retirement)


@pytest.mark.parametrize("how", ["retire_in_vain", "it is killed"])
async def test_a_retirement_that_ends_without_success_ends_the_members_all_the_same(watched, how):
    each = watched()
    killed = how == "it is killed"
    folder = await shrink(each, "retire_for_ever" if killed else how)
    if killed:
        os.kill(int((folder / "retiring").read_text()), signal.SIGKILL)
    await each.until(lambda s: states(s) == [(0, "ready")])
    if not killed:
        assert "nobody is there to take it" in each.backend.log("toy", "retire-1-0.log")


async def test_a_retirement_without_anybody_left_to_retire_is_ended(watched):
    each = watched()
    folder = await shrink(each, "retire_for_ever", replicas=2)
    retirement = int((folder / "retiring").read_text())
    (folder / "holder-2.left").touch()
    await gone([retirement])
    await each.until(lambda s: states(s) == [(0, "ready"), (1, "ready")])


async def test_who_takes_the_name_of_a_member_that_left_is_not_ended_for_it(watched):
    each = watched()
    folder = await shrink(each, "retire_for_ever")
    (folder / "holder-1.left").touch()
    await each.until(lambda s: states(s) == [(0, "ready"), (2, "retiring")])
    (folder / "holder-1.left").unlink()
    await each.backend.scale("toy", "holder", 2)
    after = [(0, "ready"), (1, "ready"), (2, "retiring")]
    status = await each.until(lambda s: sorted(states(s)) == after)
    os.kill(int((folder / "retiring").read_text()), signal.SIGKILL)
    later = await each.until(lambda s: states(s) == [(0, "ready"), (1, "ready")])
    new = {m["index"]: m["pid"] for m in members(status, "holder")}
    assert {m["index"]: m["pid"] for m in members(later, "holder")} == {0: new[0], 1: new[1]}
