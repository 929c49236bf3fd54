from __future__ import annotations

import collections
import functools
import json
import secrets
from dataclasses import replace

import flyte
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyte_jupyter.cells.capture import Capture, capture, describe
from flyte_jupyter.cells.names import CellNames
from flyte_jupyter.cells.sizes import human_size
from flyte_jupyter.cells.strings import Mentioned
from flyte_jupyter.errors import CaptureError


def reading(*names):
    return CellNames(reads=names, binds=frozenset(), star_import=False, imports=frozenset())


def test_values_of_the_names_read_are_captured_in_order():
    captured = capture(reading("b", "a"), {"a": 1, "b": 2, "c": 3})
    assert captured.values == {"b": 2, "a": 1}
    assert list(captured.values) == ["b", "a"]


def test_names_in_strings_are_captured_if_the_notebook_has_them():
    mentioned = Mentioned(names=("limit", "nobody"), tables=("frame", "number", "nobody"))
    cell = replace(reading("df"), mentioned=mentioned)
    namespace = {"df": 1, "limit": 2, "frame": np.zeros(3), "number": 4}
    captured = capture(cell, namespace)
    assert list(captured.values) == ["df", "limit", "frame"]
    assert captured.missing == ()
    bound = replace(cell, binds=frozenset({"limit", "frame"}))
    assert list(capture(bound, namespace).values) == ["df"], "the cell has its own"
    assert list(capture(cell, namespace, only=["number"]).values) == ["number"]
    assert list(capture(reading("df"), namespace, extra=["limit"]).values) == ["df", "limit"]


def test_a_secret_in_a_string_does_not_travel_either():
    cell = replace(reading(), mentioned=Mentioned(names=("api_key",)))
    with pytest.raises(CaptureError, match="`api_key` was not sent"):
        capture(cell, {"api_key": "hunter2"})


def test_a_name_that_nobody_has_is_left_for_the_cell_to_raise():
    captured = capture(reading("nope", "print"), {})
    assert captured == Capture({}, missing=("nope",))


def test_a_variable_that_shadows_a_builtin_travels():
    assert capture(reading("max"), {"max": 3}).values == {"max": 3}


def test_explicit_names_replace_those_found():
    assert capture(reading("a"), {"a": 1, "b": 2}, only=["b"]).values == {"b": 2}
    assert capture(reading("a"), {"a": 1, "b": 2}, only=[]).values == {}


def test_extra_names_come_besides_those_found():
    assert capture(reading("a"), {"a": 1, "b": 2}, extra=["b"]).values == {"a": 1, "b": 2}


def test_a_missing_explicit_name_is_one_line_that_says_what_was_meant():
    with pytest.raises(CaptureError) as caught:
        capture(reading(), {"name": 1}, only=["nme"])
    message = str(caught.value)
    assert message == ("-i nme: the notebook has no variable of that name. Did you mean `name`?")


def test_a_missing_explicit_name_like_no_other_suggests_nothing():
    with pytest.raises(CaptureError, match=r"has no variable of that name$"):
        capture(reading(), {"frame": 1}, only=["zzz"])


def test_a_missing_explicit_name_is_an_error_even_for_a_builtin():
    with pytest.raises(CaptureError):
        capture(reading(), {}, only=["print"])


def test_what_ipython_keeps_in_the_namespace_stays(ipython_namespace):
    shells = [name for name in ipython_namespace if not name.startswith("__")]
    assert {"In", "Out", "get_ipython", "exit", "quit", "open", "_", "_dh"} <= set(shells)
    assert capture(reading(*shells), ipython_namespace).values == {}


def test_what_ipython_keeps_travels_when_asked_for(ipython_namespace):
    assert set(capture(reading(), ipython_namespace, only=["_", "Out"]).values) == {"_", "Out"}


@pytest.mark.parametrize("name", ["_12", "_i3", "_", "__", "___", "_ii", "_oh"])
def test_history_names_stay(name):
    assert capture(reading(name), {name: 1}).values == {}


@pytest.mark.parametrize("name", ["In", "Out", "exit", "open", "display", "_private", "_x1"])
def test_the_users_own_value_of_such_a_name_travels(ipython_namespace, name):
    namespace = ipython_namespace | {name: 5}
    assert capture(reading(name), namespace).values == {name: 5}


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "openai_api_key",
        "apiKey",
        "AWS_SECRET_ACCESS_KEY",
        "access_key",
        "db_password",
        "PASSWD",
        "passphrase",
        "secret",
        "clientSecret",
        "token",
        "HF_TOKEN",
        "private_key",
        "credentials",
        "token2",
        "openai_key",
        "encryption_key",
    ],
)
@pytest.mark.parametrize("value", ["hunter2", b"hunter2"])
def test_a_secret_does_not_travel_unasked_and_is_never_shown(name, value):
    with pytest.raises(CaptureError) as caught:
        capture(reading(name), {name: value})
    message = str(caught.value)
    assert name in message
    assert f"--also {name}" in message
    assert "flyte.Secret" in message
    assert "hunter2" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("credentials", {"user": "me", "password": "hunter2"}),
        ("db_credentials", object()),
        ("credential", collections.namedtuple("Pair", "user password")("me", "hunter2")),
        ("password", ["hunter2"]),
        ("passwords", ("hunter2",)),
        ("secrets", {"a": {"b": b"hunter2"}}),
        ("api_keys", {"hunter2"}),
        ("DATABASE_URL", "postgresql://me:hunter2@host/db"),
        ("broker", "redis://:hunter2@host"),
    ],
)
def test_a_secret_need_not_be_a_text_nor_be_named_so(name, value):
    with pytest.raises(CaptureError, match=f"`{name}` was not sent") as caught:
        capture(reading(name), {name: value})
    assert "hunter2" not in str(caught.value)


def test_a_secret_travels_when_asked_for():
    assert capture(reading(), {"token": "t"}, only=["token"]).values == {"token": "t"}
    assert capture(reading("token"), {"token": "t"}, extra=["token"]).values == {"token": "t"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", ["a", "b"]),
        ("tokens", "a b"),
        ("n_tokens", 5),
        ("tokenizer", "bert"),
        ("token", ""),
        ("token", 17),
        ("pad_token", "<pad>"),
        ("token_path", "/run/token"),
        ("secret_name", "db"),
        ("PASSWORD_FIELD", "pw"),
        ("key", "k"),
        ("primary_key", "id"),
        ("secretary", "S"),
        ("monkey", "m"),
        ("credentials", None),
        ("secret", 17),
        ("secrets", secrets),
        ("password", len),
        ("passwords", []),
        ("secrets", {"n": 1}),
        ("password_hasher", object()),
        ("secret", flyte.Secret("key")),
        ("token", object()),
        ("url", "https://host:8080/a@b"),
        ("url", "https://me@host"),
        ("template", "postgresql://{user}:{password}@host"),
        ("s3_key", "folder/file"),
    ],
)
def test_names_that_only_resemble_secrets_travel(name, value):
    assert capture(reading(name), {name: value}).values == {name: value}


def local_function():
    return 1


def test_description_says_what_each_value_is_and_how_it_travels():
    values = {
        "n": 3,
        "counts": collections.Counter(),
        "js": json,
        "loads": json.loads,
        "Ordered": collections.OrderedDict,
        "size": len,
        "double": lambda v: 2 * v,
        "mine": local_function,
        "Row": type("Row", (), {}),
        "frame": [],
        "half": functools.partial(local_function),
    }
    rows = {r.name: r for r in describe(Capture(values), {"n": 5}, refs={"frame"})}
    assert {name: row.travels for name, row in rows.items()} == {
        "n": "value",
        "counts": "value",
        "js": "import json",
        "loads": "import json.loads",
        "Ordered": "import collections.OrderedDict",
        "size": "import builtins.len",
        "double": "function by value",
        "mine": "function by value",
        "Row": "class by value",
        "frame": "ref",
        "half": "value",
    }
    assert (rows["n"].size, rows["js"].size) == (5, 0)
    assert [rows[k].type_name for k in ("n", "counts")] == ["int", "collections.Counter"]


def test_a_type_is_named_by_the_package_that_offers_it():
    import pandas as pd

    (row,) = describe(Capture({"df": pd.DataFrame()}), {})
    assert row.type_name == "pandas.DataFrame"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (64 * 2**20, "64.0 MiB"),
        (2**20 - 1, "1.0 MiB"),
        (3 * 2**40, "3.0 TiB"),
        (2**70, "1024.0 EiB"),
    ],
)
def test_sizes_are_written_with_one_decimal(size, text):
    assert human_size(size) == text


@given(st.integers(min_value=0, max_value=2**64))
def test_a_size_is_within_a_twentieth_of_what_is_written(size):
    number, unit = human_size(size).split()
    power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert float(number) * 1024**power == pytest.approx(size, abs=0.05 * 1024**power + 1)
