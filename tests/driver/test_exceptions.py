"""Exceptions keep their type and state, whatever their class takes to make one."""

from __future__ import annotations

import copyreg
import threading

import pytest

from flyte_jupyter.driver.values.transfer import pack, unpack


def sent(error: BaseException) -> BaseException:
    parcel = pack({"error": error}, shared=False)
    made = unpack(parcel.header, parcel.frames)["error"]
    assert type(made) is type(error)
    assert isinstance(made, BaseException)
    return made


class OtherArguments(Exception):
    def __init__(self, status, url):
        super().__init__(f"{status} for {url}")
        self.status = status


class KeywordsOnly(ValueError):
    def __init__(self, *, where):
        super().__init__("wrong")
        self.where = where


class MessageOfMessage(Exception):
    def __init__(self, name):
        super().__init__(f"no {name}")


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__()
        self.code = code


class OfDecoding(UnicodeDecodeError):
    def __init__(self, data):
        super().__init__("utf-8", data, 0, 1, "invalid")


def test_a_constructor_that_takes_other_arguments():
    made = sent(OtherArguments(503, "there"))
    assert (str(made), made.status, made.args) == ("503 for there", 503, ("503 for there",))


def test_a_constructor_that_takes_keywords_alone():
    made = sent(KeywordsOnly(where="here"))
    assert (str(made), made.where) == ("wrong", "here")


def test_a_message_is_not_made_of_the_message():
    assert str(sent(MessageOfMessage("file"))) == "no file"


def test_slots():
    assert sent(Slotted(7)).code == 7


def test_state_that_python_keeps_itself():
    made = sent(OfDecoding(b"\xff"))
    assert (made.object, made.reason, str(made)) == (b"\xff", "invalid", str(OfDecoding(b"\xff")))


def test_notes_go_along():
    error = OtherArguments(1, "x")
    error.add_note("a note")
    assert sent(error).__notes__ == ["a note"]


def test_one_that_refers_to_itself():
    error = OtherArguments(1, "x")
    error.itself = error
    made = sent(error)
    assert made.itself is made


@pytest.mark.parametrize(
    "error",
    [OSError(2, "no", "file"), KeyError("k"), StopIteration(3), SystemExit(4), ImportError("i")],
    ids=repr,
)
def test_pythons_own(error):
    made = sent(error)
    assert (made.args, str(made), vars(made)) == (error.args, str(error), vars(error))


def test_what_somebody_registered_is_respected(monkeypatch):
    made = OtherArguments(5, "y")
    table = {**copyreg.dispatch_table, OtherArguments: lambda e: (OtherArguments, (e.status, "z"))}
    monkeypatch.setattr(copyreg, "dispatch_table", table)
    assert str(sent(made)) == "5 for z"


def test_what_dask_registers_for_all_changes_nothing():
    pytest.importorskip("distributed.core")
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
    assert str(sent(error)) == str(error)
    assert sent(Slotted(7)).code == 7


class WithALock(Exception):
    def __init__(self, code, other):
        super().__init__(code)
        self.lock = threading.Lock()

    def __reduce_ex__(self, protocol):
        return WithALock, (self.args[0], None)


class Remembering(Exception):
    def __init__(self, code, other):
        super().__init__(code)

    def __reduce__(self):
        return Remembering, (1, 2), {"found": 3}

    def __setstate__(self, state):
        self.told = state["found"]


def test_what_a_class_says_of_itself_is_respected():
    assert sent(WithALock(5, None)).args == (5,)
    assert sent(Remembering(1, 2)).told == 3
