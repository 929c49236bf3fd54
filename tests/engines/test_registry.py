"""Engines of anybody's package, found by their entry points."""

from __future__ import annotations

import sys
import textwrap

import pytest

from flyte_jupyter.engines import registry
from flyte_jupyter.engines.dask.engine import DaskEngine
from flyte_jupyter.engines.plain_engine import PlainEngine
from flyte_jupyter.errors import EngineError, UsageError

TOY = '''
"""An engine as a third party would write it."""
import os, threading
from dataclasses import dataclass
from flyte_jupyter.engines.engine import ClusterSpec, Role

@dataclass
class ToyConfig:
    servers: int = 1

class ToyEngine:
    name = "toy"
    config_type = "toy_flyte_engine.ToyConfig"
    def describe(self, config, resources):
        role = Role("server", "toy_flyte_engine:serve", replicas=config.servers, scalable=True)
        return ClusterSpec(
            "toy", (role,), preload=("toy_flyte_engine",), prepare="toy_flyte_engine:prepare",
            connect="toy_flyte_engine:connect",
        )
    def configure(self, options):
        return ToyConfig(int(options.get("servers", 1)))
    def links(self, facts):
        return {f"Server {i}": fact["url"] for i, fact in enumerate(facts.get("server", ()))}
    def ignored(self, config):
        return {"colour": "there are no colours here"}

def prepare(folder):
    return {"word": "abracadabra"}

def serve(member):
    member.ready(url=f"toy://{member.index}", word=member.args["word"])
    threading.Event().wait()

def connect(member):
    os.environ["TOY_SERVER"] = member.wait_for("server")["url"]
    os.environ["TOY_WORD"] = member.args["word"]
'''


def install(folder, entry_points, code=TOY):
    """Lay out a package as an installer would, metadata included."""
    (folder / "toy_flyte_engine.py").write_text(code)
    info = folder / "toy_flyte_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-flyte-engine\nVersion: 1.0\n")
    (info / "RECORD").write_text("")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package for one test."""

    def make(entry_points):
        install(tmp_path, entry_points)
        monkeypatch.syspath_prepend(tmp_path)
        registry.engines.cache_clear()

    yield make
    registry.engines.cache_clear()
    sys.modules.pop("toy_flyte_engine", None)


def test_the_projects_own_engines_are_installed():
    registry.engines.cache_clear()
    assert isinstance(registry.engine_named("dask"), DaskEngine)
    assert isinstance(registry.engine_named("plain"), PlainEngine)
    assert isinstance(registry.engine_for(None), PlainEngine)


def test_a_plugin_config_names_its_engine_by_its_type():
    from flyteplugins.dask import Dask

    class Special(Dask):
        pass

    assert isinstance(registry.engine_for(Dask()), DaskEngine)
    assert isinstance(registry.engine_for(Special()), DaskEngine)


def test_a_broken_engine_warns_and_takes_no_other_with_it(installed):
    installed("""
        [flyte_jupyter.engines]
        absent = toy_flyte_engine:NoSuchEngine
        missing = no_such_package:Engine
        toy = toy_flyte_engine:ToyEngine
    """)
    with pytest.warns(RuntimeWarning, match="is skipped") as warned:
        found = registry.engines()
    said = sorted(str(w.message) for w in warned)
    assert len(said) == 2
    assert said[0].startswith("flyte-jupyter engine 'absent' (toy_flyte_engine:NoSuchEngine)")
    assert said[1].startswith("flyte-jupyter engine 'missing' (no_such_package:Engine)")
    assert {"dask", "plain", "toy"} <= set(found)


def test_an_engine_that_is_not_there_is_named_with_the_closest():
    registry.engines.cache_clear()
    with pytest.raises(EngineError, match=r"no engine is called 'dusk'.*Did you mean 'dask'"):
        registry.engine_named("dusk")
    with pytest.raises(EngineError, match="installed are dask, databricks, plain"):
        registry.engine_named("xyzzy")


def test_a_config_that_nobody_runs_is_named_with_its_type():
    registry.engines.cache_clear()
    with pytest.raises(
        EngineError, match=r"no engine runs a Mystery config.*flyte_jupyter.engines"
    ):
        registry.engine_for(type("Mystery", (), {})())


@pytest.mark.parametrize(
    ("config_type", "kind", "same"),
    [
        ("flyteplugins.dask.Dask", "flyteplugins.dask.Dask", True),
        ("flyteplugins.dask.Dask", "flyteplugins.dask.task.Dask", True),
        ("flyteplugins.dask.Dask", "flyteplugins.dask.task.MyDask", False),
        ("flyteplugins.dask.Dask", "flyteplugins.dasky.Dask", False),
        ("flyteplugins.dask.Dask", "other.Dask", False),
        ("", "builtins.object", False),
    ],
)
def test_types_are_compared_without_importing_them(config_type, kind, same):
    assert registry._matches(config_type, kind) is same


def test_a_plain_engine_has_nothing_to_configure():
    engine = PlainEngine()
    assert engine.configure({}) is None
    assert engine.describe(None, None).roles == ()
    assert (engine.links({}), engine.ignored(None)) == ({}, {})
    with pytest.raises(UsageError, match="a plain environment has no --workers"):
        engine.configure({"workers": "3"})


def test_an_engine_of_a_third_party_runs_a_task(installed):
    """Its role starts and reports, the driver connects, the session scales and links it."""
    installed("""
        [flyte_jupyter.engines]
        toy = toy_flyte_engine:ToyEngine
    """)
    import flyte
    from toy_flyte_engine import ToyConfig

    from flyte_jupyter import CellTask, Session

    said = []
    environment = flyte.TaskEnvironment(name="toys", plugin_config=ToyConfig(servers=2))
    session = Session(namespace={"env": environment}, report=said.append)
    try:
        code = "import os\nfound = os.environ['TOY_SERVER'], os.environ['TOY_WORD']"
        run = session.submit("env", CellTask(code, returns=("found",)))
        assert session.wait(run) == ("toy://0", "abracadabra")
        assert said == [
            "toys: plugin_config.colour is not honoured here: there are no colours here."
        ]
        cluster = session.cluster("toys")
        assert cluster.links == {"Server 0": "toy://0", "Server 1": "toy://1"}
        assert cluster.summary() == "2 servers"
        session.scale("env", 3)
        assert cluster.summary() == "3 servers"
    finally:
        session.close()


def test_an_engine_can_be_added_without_a_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_flyte_engine.py").write_text(TOY)
    registry.engines.cache_clear()
    import toy_flyte_engine

    try:
        registry.register(toy_flyte_engine.ToyEngine())
        assert registry.engine_for(toy_flyte_engine.ToyConfig()).name == "toy"
        assert registry.engine_named("toy").config_type == "toy_flyte_engine.ToyConfig"
    finally:
        registry.engines.cache_clear()
        sys.modules.pop("toy_flyte_engine")


def test_a_config_goes_to_its_own_engine_before_that_of_what_it_derives_from():
    pytest.importorskip("flyteplugins.databricks")
    from flyteplugins.databricks import Databricks
    from flyteplugins.spark import Spark

    registry.engines.cache_clear()
    assert registry.engine_for(Spark()).name == "spark"
    assert registry.engine_for(Databricks()).name == "databricks"
