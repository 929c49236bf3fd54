"""Executors that end before they have begun: what a worker notes, and when the driver gives up."""

from __future__ import annotations

import json

import pytest

from flyte_jupyter.engines.spark import refusals

LAUNCH = "Spark Executor Command: java -XX:+ExitOnOutOfMemoryError\n========\n\n"


@pytest.fixture
def cluster(tmp_path):
    """The folders of a cluster and of one worker."""
    work = tmp_path / "spark" / "work-0"
    work.mkdir(parents=True)
    return tmp_path, work


def ended(application: str, number: int, state: str = "EXITED") -> str:
    said = f"message Command {state.lower()} with code 1 exitStatus 1"
    what = f"Executor {application}/{number} finished with state {state} {said}"
    return f"00:00:12 INFO Worker: {what}\n"


def test_three_ends_in_a_row_are_told_with_what_the_first_said(cluster):
    folder, work = cluster
    (work / "app-1" / "0").mkdir(parents=True)
    words = "NOTE: Picked up JDK_JAVA_OPTIONS: -Dx=Error\nSome text\nInvalid heap\nError: no JVM\n"
    (work / "app-1" / "0" / "stderr").write_text(LAUNCH + words)
    endings, note = refusals.Endings(folder, work), folder / "spark" / "refused"
    endings.read(ended("app-0", 7))
    endings.read(ended("app-1", 0))
    endings.read("00:00:12 INFO Worker: Asked to launch executor app-1/1 for FlyteSpark\n")
    endings.read(ended("app-1", 1))
    assert not note.exists(), "two of this application have ended"
    endings.read(ended("app-1", 2, "KILLED"))
    assert not note.exists(), "that was wanted"
    endings.read(ended("app-1", 3))
    told = {"application": "app-1", "executors": ["0", "1", "3"], "said": "Invalid heap"}
    assert json.loads(note.read_text()) == told


def test_executors_that_said_nothing_are_told_with_their_exit_code(cluster):
    folder, work = cluster
    endings = refusals.Endings(folder, work)
    for number in range(3):
        endings.read(ended("app-1", number))
    assert json.loads((folder / "spark" / "refused").read_text())["said"] == "exit code 1"


class Context:
    """A Spark context of which some executors have reported to the driver, as PySpark shows it."""

    applicationId = "app-1"  # noqa: N815 - Spark's word

    def __init__(self, *known: str) -> None:
        self._known = known
        self._jsc = self

    def sc(self) -> Context:
        return self

    statusStore = sc  # noqa: N815 - Spark's word

    def executorList(self, active: bool) -> Context:  # noqa: N802 - Spark's word
        assert not active, "those that have died count too"
        return self

    def size(self) -> int:
        return len(self._known)

    def apply(self, index: int) -> Context:
        return Context(self._known[index])

    def id(self) -> str:
        return self._known[0]


@pytest.mark.parametrize(
    ("known", "application", "given_up"),
    [
        (("driver",), "app-1", True),
        (("driver", "9"), "app-1", True),
        (("driver", "1"), "app-1", False),
        (("driver",), "app-0", False),
    ],
)
def test_only_an_application_that_has_heard_of_none_is_given_up(
    cluster, monkeypatch, known, application, given_up
):
    monkeypatch.setattr(refusals.threading.Thread, "start", lambda self: None)
    folder, work = cluster
    endings, said = refusals.Endings(folder, work), []
    context = Context(*known)
    watch = refusals.Watch(folder, None, lambda: context, lambda *more: said.append(more))
    for number in range(3):
        endings.read(ended(application, number))
    watch._judge()
    told = [(about, error.seen) for about, error in said]
    assert told == ([(context, "exit code 1")] if given_up else [])
    assert not (folder / "spark" / "refused").exists(), "it has been read"
