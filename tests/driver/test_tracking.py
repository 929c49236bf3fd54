"""Where runs of Weights & Biases go that nobody said anything about."""

from __future__ import annotations

import os
import sys
import types

import pytest

from flyte_jupyter.driver import tracking
from flyte_jupyter.driver.tracking import offline_without_a_key


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "")  # restored in the end, whatever is set meanwhile
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setattr(tracking, "_ours", False)
    return tmp_path


def test_without_a_key_runs_are_offline_and_that_is_said_once(capsys):
    offline_without_a_key()
    assert os.environ["WANDB_MODE"] == "offline"
    assert "no key" in capsys.readouterr().err
    offline_without_a_key()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_what_was_chosen_stays(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "online")
    offline_without_a_key()
    assert os.environ["WANDB_MODE"] == ("online" if name == "WANDB_MODE" else "")
    assert capsys.readouterr().err == ""


def test_a_login_stays(nothing_chosen, capsys):
    (nothing_chosen / ".netrc").write_text("machine api.wandb.ai login user password xyzzy\n")
    (nothing_chosen / ".netrc").chmod(0o600)
    offline_without_a_key()
    assert os.environ["WANDB_MODE"] == ""
    assert capsys.readouterr().err == ""


def test_a_login_of_another_server_is_none(nothing_chosen, monkeypatch):
    (nothing_chosen / ".netrc").write_text("machine api.wandb.ai login user password xyzzy\n")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    offline_without_a_key()
    assert os.environ["WANDB_MODE"] == "offline"


def test_nothing_is_set_where_there_is_no_such_run(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb")
    offline_without_a_key()
    assert os.environ["WANDB_MODE"] == ""


def test_a_key_that_comes_later_counts(nothing_chosen, monkeypatch):
    offline_without_a_key()
    monkeypatch.setenv("WANDB_API_KEY", "later")
    offline_without_a_key()
    assert "WANDB_MODE" not in os.environ
