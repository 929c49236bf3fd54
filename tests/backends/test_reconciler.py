"""What the operator decides, without a process: the whole present state in, decisions out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flyte_jupyter.backends.backend import DRIVER
from flyte_jupyter.backends.local import reconciler as module
from flyte_jupyter.backends.local.reconciler import Reconciler
from flyte_jupyter.engines.engine import ClusterSpec, Role

SCHEDULER = Role("scheduler", "m:s", vital=True)
DRIVER_ROLE = Role(DRIVER, "m:d")


def workers(count):
    return Role("worker", "m:w", replicas=count, scalable=True)


def reconciler(count=2, *, running=False):
    made = Reconciler(ClusterSpec("toy", (SCHEDULER, workers(count))), DRIVER_ROLE)
    if running:
        begin(made)
    return made


def begin(made):
    """Start what is missing and have all of it become ready."""
    ids = [record.id for record in made.missing()]
    for pid, member in enumerate(ids, 100):
        made.started(member, pid)
        made.ready(member, {"address": member})
    return ids


def worker_ids(made):
    return [r.id for r in made.records.values() if r.role.name == "worker"]


def test_every_member_is_missing_once_at_first():
    made = reconciler(2)
    assert [r.id for r in made.missing()] == ["scheduler-0", "worker-0", "worker-1", "driver"]
    assert list(made.missing()) == []
    assert made.state == "starting"


def test_a_cluster_is_ready_when_its_last_member_is():
    made = reconciler(1)
    ids = [r.id for r in made.missing()]
    for member in ids[:-1]:
        made.ready(member, {})
        assert made.state == "starting"
    made.ready(ids[-1], {})
    assert made.state == "ready"


def test_ready_of_a_member_that_is_not_starting_is_not_heard():
    made = reconciler(1)
    made.ready("worker-0", {"address": "too early"})
    made.ready("nobody", {})
    assert made.facts == {}


def test_facts_are_those_of_ready_members_in_the_order_of_their_index():
    made = reconciler(3, running=True)
    assert [f["address"] for f in made.facts["worker"]] == ["worker-0", "worker-1", "worker-2"]
    assert DRIVER not in made.facts
    made.exited("worker-1", "exit code 1")
    assert [f["address"] for f in made.facts["worker"]] == ["worker-0", "worker-2"]


def test_a_dead_member_is_replaced_by_one_of_the_next_generation():
    made = reconciler(2, running=True)
    made.exited("worker-1", "killed by SIGKILL")
    (again,) = made.missing()
    assert (again.id, again.generation, again.exit) == ("worker-1", 2, "killed by SIGKILL")
    assert made.state == "ready"
    status = next(m for m in made.status()["members"] if m["index"] == 1)
    assert (status["state"], status["exit"]) == ("starting", "killed by SIGKILL")


def test_the_death_of_a_vital_member_is_that_of_the_cluster():
    made = reconciler(1, running=True)
    made.exited("scheduler-0", "killed by SIGSEGV")
    assert (made.state, made.reason) == ("failed", "scheduler-0 ended: killed by SIGSEGV")
    made.fail("something later")
    assert made.reason == "scheduler-0 ended: killed by SIGSEGV"


def test_a_driver_that_dies_is_replaced():
    made = reconciler(1, running=True)
    for generation in range(2, 12):
        made.exited(DRIVER, "exit code 1")
        (again,) = made.missing()
        assert (again.id, again.generation) == (DRIVER, generation)
        made.ready(DRIVER, {})
    assert made.state == "ready"


def test_a_member_that_never_becomes_ready_fails_the_cluster_after_three_attempts():
    made = reconciler(1)
    list(made.missing())
    for attempt in range(3):
        assert made.state == "starting"
        made.exited("worker-0", "exit code 2")
        assert len(list(made.missing())) == 1 or attempt == 2
    assert (made.state, made.reason) == ("failed", "worker-0 ended: exit code 2")


def test_becoming_ready_forgives_earlier_attempts():
    made = reconciler(1, running=True)
    made.exited("worker-0", "a crash")
    for _ in range(2):
        list(made.missing())
        made.exited("worker-0", "no start")
    list(made.missing())
    made.ready("worker-0", {})
    made.exited("worker-0", "a crash")
    for _ in range(2):
        list(made.missing())
        made.exited("worker-0", "no start")
    assert made.state == "ready"


def test_a_worker_that_keeps_crashing_is_given_up_and_the_rest_goes_on():
    made = reconciler(2, running=True)
    for _ in range(5):
        made.exited("worker-0", "killed by SIGSEGV")
        for record in made.missing():
            made.ready(record.id, {})
    assert list(made.missing()) == []
    assert made.state == "ready"
    status = made.status()["members"]
    assert [m["state"] for m in status] == ["ready", "exited", "ready", "ready"]


def test_crashes_long_ago_are_not_counted(monkeypatch):
    made = reconciler(1, running=True)
    for moment in range(20):
        monkeypatch.setattr(module.time, "monotonic", lambda now=moment * 20.0: now)
        made.exited("worker-0", "killed by SIGSEGV")
        assert [r.id for r in made.missing()] == ["worker-0"]
        made.ready("worker-0", {})


def test_a_cluster_does_not_wait_for_what_is_not_wanted_any_more():
    made = reconciler(2)
    list(made.missing())
    for member in ("scheduler-0", "worker-0", DRIVER):
        made.ready(member, {})
    assert made.state == "starting"
    made.scale("worker", 1)
    assert made.state == "ready"


def test_scaling_up_starts_only_what_is_new():
    made = reconciler(1, running=True)
    assert made.scale("worker", 3) == []
    assert [r.id for r in made.missing()] == ["worker-1", "worker-2"]
    assert made.state == "ready"


def test_scaling_down_takes_the_last_and_does_not_replace_them():
    made = reconciler(3, running=True)
    assert [r.id for r in made.scale("worker", 1)] == ["worker-1", "worker-2"]
    assert worker_ids(made) == ["worker-0", "worker-1", "worker-2"]
    states = [m["state"] for m in made.status()["members"] if m["role"] == "worker"]
    assert states == ["ready", "retiring", "retiring"]
    made.exited("worker-1", "exit code 0")
    made.exited("worker-2", "exit code 0")
    assert worker_ids(made) == ["worker-0"]
    assert list(made.missing()) == []


def test_scaling_to_the_same_number_again_changes_nothing():
    made = reconciler(3, running=True)
    made.scale("worker", 2)
    assert made.scale("worker", 2) == []
    assert list(made.missing()) == []


def test_scaling_up_while_members_leave_starts_others_beside_them():
    made = reconciler(3, running=True)
    made.scale("worker", 1)
    made.scale("worker", 3)
    assert [r.id for r in made.missing()] == ["worker-3", "worker-4"]
    made.exited("worker-1", "exit code 0")
    made.exited("worker-2", "exit code 0")
    assert worker_ids(made) == ["worker-0", "worker-3", "worker-4"]


@pytest.mark.parametrize("how", ["not started", "resting"])
def test_scaling_down_forgets_members_that_have_no_process_at_once(how):
    made = reconciler(2, running=how == "resting")
    if how == "resting":
        for _ in range(5):
            made.exited("worker-1", "killed by SIGSEGV")
            for record in made.missing():
                made.ready(record.id, {})
    assert made.scale("worker", 1) == [], "there is no process that could leave"
    assert worker_ids(made) == ["worker-0"]


def crash(made, member, times=5):
    for _ in range(times):
        made.exited(member, "killed by SIGKILL")
        for record in made.missing():
            made.ready(record.id, {})


def test_a_member_that_dies_again_and_again_has_to_rest_before_it_is_tried_again(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    made = reconciler(2, running=True)
    crash(made, "worker-0")
    assert (made.state, made.pause) == ("ready", 30.0)
    assert list(made.missing()) == []
    now += 30.0
    assert made.pause == 0.0
    assert [record.id for record in made.missing()] == ["worker-0"]
    assert made.pause is None
    made.ready("worker-0", {})
    crash(made, "worker-0", times=1)
    assert made.pause == 30.0, "it has not lived for long"


@pytest.mark.parametrize("state", ["stopping", "stopped", "failed"])
def test_members_that_end_with_their_cluster_are_no_crashes(state):
    made = reconciler(1, running=True)
    made.state = state
    made.exited("scheduler-0", "killed by SIGTERM")
    assert (made.state, made.reason) == (state, "")


class Operated(RuleBasedStateMachine):
    """A cluster to which anything may happen in any order."""

    def __init__(self):
        super().__init__()
        self.made = reconciler(2)
        self.running: set[str] = set()
        self.wanted = 2
        self.generations: dict[str, int] = {}

    @rule()
    def start_what_is_missing(self):
        for record in self.made.missing():
            assert record.id not in self.running, "two processes of one name"
            assert record.generation > 0
            self.running.add(record.id)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def become_ready(self, data):
        self.made.ready(data.draw(st.sampled_from(sorted(self.running))), {})

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        member = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(member)
        self.made.exited(member, "exit code 1")

    @rule(count=st.integers(0, 5))
    def scale(self, count):
        if self.made.state in ("starting", "ready"):
            self.wanted = count
            for record in self.made.scale("worker", count):
                assert record.id in self.running, "asked to leave without a process"

    @invariant()
    def as_many_stay_as_are_wanted(self):
        workers = [r for r in self.made.records.values() if r.role.name == "worker"]
        assert sum(not r.leaving for r in workers) == self.wanted

    @invariant()
    def who_leaves_has_a_process(self):
        if self.made.state in ("starting", "ready"):
            leaving = {r.id for r in self.made.records.values() if r.leaving}
            assert leaving <= self.running

    @invariant()
    def a_cluster_is_not_starting_when_all_of_it_is_ready(self):
        staying = [r for r in self.made.records.values() if not r.leaving]
        if all(r.state == "ready" for r in staying):
            assert self.made.state != "starting"

    @invariant()
    def the_status_is_plain_data(self):
        import json

        assert json.loads(json.dumps(self.made.status())) == self.made.status()


TestOperated = Operated.TestCase
TestOperated.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
