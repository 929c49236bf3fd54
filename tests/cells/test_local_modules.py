from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import time
import types

import cloudpickle
import pytest

from flyte_jupyter.cells.installed import editables
from flyte_jupyter.cells.local_modules import LocalModules


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A notebook's folder: the working directory, first on `sys.path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before, registered = set(sys.modules), cloudpickle.list_registry_pickle_by_value()
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__path__", "")) + str(
            getattr(sys.modules[name], "__file__", "")
        ):
            del sys.modules[name]
    assert cloudpickle.list_registry_pickle_by_value() == registered


@pytest.fixture
def write(folder):
    def write(path, text):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return file

    return write


@pytest.fixture
def local():
    return LocalModules()


def elsewhere(value, expression):
    """Evaluate an expression of `o` in a process that cannot import the notebook's files."""
    program = f"import pickle, sys; o = pickle.load(sys.stdin.buffer); print(({expression}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=value,
        capture_output=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def sent(local, value):
    with local.travelling_by_value():
        return cloudpickle.dumps(value)


def test_modules_beside_the_notebook_are_local_and_installed_ones_are_not(write, local):
    import numpy as np

    write("beside.py", "import json")
    import beside

    found = local.find()
    assert found["beside"] is beside
    assert not {np.__name__, "json", "IPython", "cloudpickle", "pytest", "__main__"} & set(found)


def test_packages_in_an_environment_below_the_notebook_are_installed(write, local, monkeypatch):
    file = write(".venv/lib/python3.11/site-packages/inside_env.py", "")
    monkeypatch.syspath_prepend(str(file.parent))
    import inside_env

    assert not local.holds(inside_env.__name__)


def test_this_package_itself_is_never_local(local, monkeypatch):
    import flyte_jupyter

    monkeypatch.chdir(os.path.dirname(os.path.dirname(flyte_jupyter.__file__)))
    assert not any(name.partition(".")[0] == "flyte_jupyter" for name in local.find())


def test_a_module_becomes_local_when_its_folder_joins_the_path(
    write, local, monkeypatch, tmp_path_factory
):
    file = write("deeper/later.py", "")
    spec = importlib.util.spec_from_file_location("later", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "later", module)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(file.parent.parent)])
    assert not local.holds("later")
    monkeypatch.syspath_prepend(str(file.parent))
    assert local.holds("later")


def test_odd_entries_of_sys_modules_do_no_harm(folder, local, monkeypatch):
    class Lazy(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError(name) if name == "__wrapped__" else AttributeError(name)

    monkeypatch.setitem(sys.modules, "odd_none", None)
    monkeypatch.setitem(sys.modules, "odd_object", object())
    monkeypatch.setitem(sys.modules, "odd_lazy", Lazy("odd_lazy"))
    assert not {"odd_none", "odd_object", "odd_lazy"} & set(local.find())


@pytest.mark.parametrize(
    ("project_below", "is_local"),
    [("src", False), ("", False)],
)
def test_editable_packages_are_installed(
    write, tmp_path, local, monkeypatch, project_below, is_local
):
    site = tmp_path / "env" / "site-packages"
    record = site / "my_pkg-1.0.dist-info" / "direct_url.json"
    record.parent.mkdir(parents=True)
    record.write_text(f'{{"url": "file://{tmp_path}", "dir_info": {{"editable": true}}}}')
    (site / "_my_pkg.pth").write_text(str(tmp_path / project_below))
    write(os.path.join(project_below, "my_pkg.py"), "")
    write("own_helpers.py", "")
    monkeypatch.syspath_prepend(str(tmp_path / project_below))
    monkeypatch.syspath_prepend(str(site))
    import my_pkg
    import own_helpers

    assert local.holds(my_pkg.__name__) is is_local
    assert local.holds(own_helpers.__name__)
    editables.cache_clear()


def test_functions_and_classes_of_local_modules_travel_whole(write, local):
    write(
        "stats.py",
        """
        import math
        SCALE = 10
        def scaled(x): return SCALE * math.floor(x)
        class Model:
            def predict(self, x): return scaled(x) + 1
        """,
    )
    import stats

    assert elsewhere(sent(local, stats.scaled), "o(4.2)") == "40"
    assert elsewhere(sent(local, stats.Model()), "o.predict(4.2)") == "41"
    assert elsewhere(sent(local, lambda: stats.scaled(2)), "o()") == "20"


def test_whole_modules_travel_with_their_loader_and_spec(write, local):
    write("whole.py", "N = 3\ndef f(): return N\n")
    import whole

    value = sent(local, whole)
    assert elsewhere(value, "o.f(), o.N, o.__name__, o.__spec__.name") == "(3, 3, 'whole', 'whole')"


def test_packages_travel_with_submodules_and_relative_imports(write, local):
    write("kit/__init__.py", "from .core import run\n")
    write("kit/core.py", "from . import parts\ndef run(): return parts.part() + 1\n")
    write("kit/parts.py", "def part(): return 1\n")
    import kit

    assert elsewhere(sent(local, kit), "o.run(), o.core.parts.part()") == "(2, 1)"
    assert elsewhere(sent(local, kit.core.run), "o()") == "2"


def test_packages_without_an_init_file_travel(write, local):
    write("bare/tool.py", "def f(): return 5\n")
    import bare.tool

    assert elsewhere(sent(local, bare), "o.tool.f()") == "5"


def test_modules_travel_by_value_only_inside_the_context(write, local):
    write("inside.py", "def f(): return 1\n")
    import inside

    with local.travelling_by_value(), local.travelling_by_value():
        assert b"inside" in cloudpickle.dumps(inside.f)
        assert "inside" in cloudpickle.list_registry_pickle_by_value()
    assert pickle.loads(cloudpickle.dumps(inside.f)) is inside.f


def test_the_inner_of_two_contexts_does_not_end_the_outer(write, local):
    write("nested_one.py", "")
    import nested_one

    with local.travelling_by_value():
        with local.travelling_by_value():
            pass
        assert nested_one.__name__ in cloudpickle.list_registry_pickle_by_value()


def test_what_the_user_registered_stays_registered(write, local):
    write("registered.py", "")
    import registered

    cloudpickle.register_pickle_by_value(registered)
    with local.travelling_by_value():
        pass
    assert "registered" in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.unregister_pickle_by_value(registered)


def test_an_error_inside_the_context_leaves_nothing_registered(write, local):
    write("failing.py", "")
    import failing

    with pytest.raises(TypeError), local.travelling_by_value():
        cloudpickle.dumps((failing, sys._getframe()))


def test_an_edited_module_is_reloaded_and_imported_names_are_new(write, local):
    write("edited.py", "def f(): return 1\nclass A:\n    def m(self): return 1\nN = 1\n")
    import edited
    from edited import A, f

    instance = A()
    assert local.refresh() == ()
    write("edited.py", "def f(): return 2\nclass A:\n    def m(self): return 2\nN = 2\nnew = 1\n")
    assert local.refresh() == ("edited",)
    assert (f(), instance.m(), edited.N, edited.new) == (2, 2, 2, 1)
    assert local.refresh() == ()


def test_every_edit_reaches_an_imported_name(write, local):
    write("often.py", "def f(): return 0\n")
    from often import f

    local.observe()
    for version in range(1, 4):
        write("often.py", f"def f(): return {version}\n{'#' * version}\n")
        assert local.refresh() == ("often",)
        assert f() == version


def test_an_edit_of_the_same_size_within_a_second_is_seen(write, local):
    file = write("quick.py", "def f(): return 1\n")
    from quick import f

    local.observe()
    second = int(file.stat().st_mtime)
    write("quick.py", "def f(): return 2\n")
    os.utime(file, ns=(second * 10**9, second * 10**9 + 5))
    assert local.refresh() == ("quick",)
    assert f() == 2


def test_an_edit_between_import_and_first_task_is_seen_after_observe(write, local):
    write("early.py", "def f(): return 1\n")
    from early import f

    local.observe()
    write("early.py", "def f(): return 22\n")
    assert local.refresh() == ("early",)
    assert f() == 22


def test_an_edit_that_plain_cells_follow_is_seen_at_the_next_task(write, local):
    write("followed.py", "def f(): return 1\n")
    from followed import f

    local.observe()
    write("followed.py", "def f(): return 22\n")
    local.observe()
    assert local.refresh() == ("followed",)
    assert f() == 22


@pytest.mark.parametrize("again", [importlib.reload, lambda m: _imported_anew(m.__name__)])
def test_a_module_that_the_user_loads_again_is_not_reloaded_once_more(write, local, again):
    write("by_hand.py", "x = 1\n")
    import by_hand

    local.observe()
    write("by_hand.py", "x = 22\n")
    again(by_hand)
    local.observe()
    assert local.refresh() == ()


def _imported_anew(name):
    del sys.modules[name]
    return importlib.import_module(name)


DECLARED = """
    import flyte
    base = flyte.TaskEnvironment(name="fj_base")
    env = flyte.TaskEnvironment(name="fj_env", depends_on=[base], env_vars={"V": "VERSION"})
    @env.task
    def train(x: int):
        return x, "VERSION"
    @base.task
    def other():
        return train
"""


def test_tasks_and_environments_of_an_edited_module_are_its_present_ones(write, local):
    write("declaring.py", DECLARED.replace("VERSION", "old"))
    import declaring
    from declaring import env, train

    @env.task
    def of_the_notebook():
        return 1

    local.refresh()
    write("declaring.py", DECLARED.replace("VERSION", "newer"))
    assert local.refresh() == ("declaring",)
    assert train.func(1) == (1, "newer")
    assert env.env_vars == {"V": "newer"}
    assert declaring.env is env
    assert declaring.train is declaring.other.func() is train
    assert env.depends_on[0] is declaring.base
    assert declaring.other.parent_env() is declaring.base
    assert train.parent_env() is of_the_notebook.parent_env() is env
    assert env.tasks == {"fj_env.train": train, "fj_env.of_the_notebook": of_the_notebook}
    assert env.tasks["fj_env.train"] is train


def test_a_task_takes_over_what_a_plugin_makes_of_it(write, local):
    text = "env = flyte.TaskEnvironment(name='fj_plugged'{})\n@env.task\ndef f(): return 1\n"
    write("plugged.py", "import flyte\n" + text.format(""))
    from plugged import f

    local.refresh()
    dask = "import flyte\nfrom flyteplugins.dask import Dask\n"
    write("plugged.py", dask + text.format(", plugin_config=Dask()"))
    assert local.refresh() == ("plugged",)
    assert type(f).__name__ == "DaskTask"


@pytest.mark.parametrize(
    "broken", ["def f(: pass\n", "def f(): return 2\nraise ValueError('no')\n"]
)
def test_a_module_that_cannot_be_reloaded_stays_and_is_reported_once(write, local, broken):
    write("fragile.py", "def f(): return 1\n")
    import fragile

    local.refresh()
    write("fragile.py", broken)
    lines = []
    assert local.refresh(lines.append) == ()
    assert fragile.f() == 1
    assert len(lines) == 1
    assert lines[0].startswith("fragile was not reloaded: ")
    assert local.refresh(lines.append) == ()
    assert len(lines) == 1
    write("fragile.py", "def f(): return 333\n")
    assert local.refresh(lines.append) == ("fragile",)
    assert fragile.f() == 333


def test_reports_go_to_standard_error_by_default(write, local, capsys):
    write("loud.py", "")
    import loud

    local.refresh()
    write("loud.py", "(")
    local.refresh()
    assert f"{loud.__name__} was not reloaded: SyntaxError" in capsys.readouterr().err


def test_a_deleted_file_leaves_its_module(write, local):
    file = write("gone.py", "x = 1\n")
    import gone

    local.refresh()
    file.unlink()
    assert local.refresh() == ()
    assert gone.x == 1


def test_a_look_that_finds_nothing_new_is_cheap(write, local, monkeypatch):
    for i in range(3000):
        module = types.ModuleType(f"_many_{i}")
        module.__file__ = f"/usr/lib/python3/dist-packages/_many_{i}.py"
        monkeypatch.setitem(sys.modules, module.__name__, module)
    write("cheap.py", "")
    import cheap

    local.refresh()
    spent = []
    for _ in range(20):
        start = time.perf_counter()
        assert local.refresh() == ()
        spent.append(time.perf_counter() - start)
    assert local.holds(cheap.__name__)
    assert min(spent) < 0.002
