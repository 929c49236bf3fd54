"""Databricks configs: checked here, and not taken for Spark of this machine."""

from __future__ import annotations

import pytest

from flyte_jupyter.engines.databricks.engine import DatabricksEngine
from flyte_jupyter.errors import EngineError, UsageError

pytest.importorskip("flyteplugins.databricks")
ENGINE = DatabricksEngine()
WHOLE = {
    "databricks_conf": {"existing_cluster_id": "1"},
    "databricks_instance": "host",
    "databricks_token": "MY_TOKEN",
}


def databricks(**fields):
    from flyteplugins.databricks import Databricks

    return Databricks(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"databricks_conf": None}, "databricks_conf, a dictionary"),
        ({"databricks_conf": {"run_name": "x"}}, "names the cluster.*has run_name"),
        ({"databricks_instance": None}, "names the instance"),
        ({"databricks_token": None}, "no credentials: no databricks_token"),
        ({"databricks_token": "OTHER"}, "no credentials: the environment variable OTHER"),
    ],
)
def test_what_is_missing_is_named(fields, said, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hush")
    monkeypatch.delenv("FLYTE_DATABRICKS_INSTANCE", raising=False)
    with pytest.raises(EngineError, match=said) as caught:
        ENGINE.describe(databricks(**{**WHOLE, **fields}), None)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_whole_config_is_said_to_need_a_deployment(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hush")
    with pytest.raises(EngineError, match="not from here: the config itself is complete"):
        ENGINE.describe(databricks(**WHOLE), None)


def test_it_is_declared_in_python():
    with pytest.raises(UsageError, match="declared in Python"):
        ENGINE.configure({})
    with pytest.raises(UsageError, match="no option --workers"):
        ENGINE.configure({"workers": "2"})
