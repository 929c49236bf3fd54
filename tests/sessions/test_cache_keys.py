"""What makes two runs the same for the cache, and what does not."""

from __future__ import annotations

import importlib
import sys
import textwrap
import threading

import flyte
import pytest
from flyte import Cache
from flyte.io import DataFrame, Dir, File

from flyte_jupyter import CellTask, FlyteJupyter
from flyte_jupyter.cells.local_modules import LocalModules
from flyte_jupyter.sessions.cache import CellCache
from flyte_jupyter.sessions.functions import as_run
from flyte_jupyter.sessions.refs import Ref


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A notebook's folder: the working directory, first on `sys.path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("fj_"):
            del sys.modules[name]


@pytest.fixture
def write(folder):
    def write(path, text):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    return write


@pytest.fixture
def key():
    said = []
    local = LocalModules()

    def key(code="y = 1", cache="auto", env="env", **task):
        made = CellCache(FlyteJupyter(), str, said.append)
        declared = flyte.TaskEnvironment(name=env, cache=cache)
        local.refresh()
        with local.travelling_by_value():
            return made.key(declared, CellTask(code, **{"returns": ("y",), **task}))

    yield key
    assert said == []


def test_the_code_counts_and_comments_do_not(key):
    assert len(key()) == 64
    assert key("y = 1") == key("\n# why\ny = 1  # so\n\n")
    assert key("y = 1") != key("y = 2")
    assert key("y = f(\n1)") == key("y = f(1)")


def test_inputs_outputs_and_names_count(key):
    assert key("y = x", values={"x": 1}) == key("y = x", values={"x": 1})
    assert key("y = x", values={"x": 1}) != key("y = x", values={"x": 2})
    assert key("y = x", values={"x": 1}) != key("y = x", values={"z": 1})
    assert key("y = z = 1", returns=("y",)) != key("y = z = 1", returns=("z",))
    assert (
        len({key(), key(name="other"), key(env="another"), key(cache=Cache("auto", salt="s"))}) == 4
    )


def test_what_is_no_part_of_the_result_does_not_count(key):
    assert key() == key(count=7, line=3, timeout=9.0, retries=2, cells={"a": 1})


def test_parts_cannot_be_taken_for_one_another(key):
    keys = [
        key(returns=("y", "s")),
        key(returns=("y",), cache=Cache("auto", salt="s")),
        key(name="y", returns=("s",)),
    ]
    assert len(set(keys)) == len(keys)


def test_what_is_not_to_be_cached_has_no_key(key):
    assert key(cache="disable") == ""
    assert key(returns=()) == ""
    assert key(keeps=("z",)) == ""
    assert key(values={"lock": threading.Lock()}) == ""
    assert key("y = (") == "", "it is the run that has to say so"


class _Home:
    driver = "here"

    def drop(self, ref):
        pass


def test_what_a_ref_stands_for_is_not_known(key):
    info = {"id": "1", "type": "int", "size": 1, "preview": "1"}
    ref = Ref(info, _Home(), "env")
    assert key(values={"x": ref}) == ""
    assert key(values={"x": [ref]}) == ""
    assert key(values={"x": ref}, cache=Cache("auto", ignored_inputs=("x",))) != ""


def test_ignored_inputs_do_not_count(key):
    cache = Cache("auto", ignored_inputs=("at",))
    one, other = {"x": 1, "at": 1}, {"x": 1, "at": 2}
    assert key(cache=cache, values=one) == key(cache=cache, values=other) == key(values={"x": 1})
    assert key(cache=cache, values={"x": 2, "at": 1}) != key(cache=cache, values=one)
    assert key(values=one) != key(values=other)


def test_a_version_stands_for_the_code(key):
    first, second = Cache("auto", version_override="1"), Cache("auto", version_override="2")
    assert key("y = 1", cache=first) == key("y = 2", cache=first)
    assert key("y = 1", cache=first) != key("y = 1", cache=second)
    assert key(cache=first, values={"x": 1}) != key(cache=first, values={"x": 2})


def test_a_function_of_the_notebook_counts(key):
    def define(text):
        module = {"__name__": "__main__"}
        exec(compile(text, "cell", "exec"), module)
        return {"f": module["f"]}

    text = "def g(x):\n    return x + 1\n\ndef f(x):\n    return g(x)\n"
    was = key("y = f(1)", values=define(text))
    assert key("y = f(1)", values=define("# shifted\n\n" + text)) == was
    assert key("y = f(1)", values=define(text.replace("+", "-"))) != was


@pytest.mark.parametrize(
    "use", ["import {0}\nuse = {0}", "from {0} import f as use", "import {0}\nuse = {0}.f"]
)
def test_a_local_module_among_the_inputs_counts(key, write, request, use):
    module = f"fj_captured_{request.node.callspec.indices['use']}"
    write(f"{module}.py", "def f(x):\n    return x + 1\n")
    names = {}
    exec(use.format(module), names)
    was = key(values={"use": names["use"]})
    assert key(values={"use": names["use"]}) == was
    write(f"{module}.py", "def f(x):\n    return x + 10\n")
    assert key(values={"use": names["use"]}) != was


def test_a_lock_of_a_local_module_does_not_count(key, write):
    text = "import threading\nLOCK = threading.Lock()\ndef f():\n    with LOCK:\n        return 1\n"
    write("fj_locking.py", text)
    module = importlib.import_module("fj_locking")
    assert key(values={"module": module}) == key(values={"module": module}) != ""
    assert key(values={"f": module.f}) == key(values={"f": module.f}) != ""


def test_a_comment_in_a_local_module_among_the_inputs_does_not_count(key, write):
    write("fj_explained.py", "def f(x):\n    return x + 1\n")
    module = importlib.import_module("fj_explained")
    was = key(values={"module": module}), key(values={"f": module.f})
    write("fj_explained.py", "# A comment.\ndef f(x):\n    return x + 1\n")
    assert (key(values={"module": module}), key(values={"f": module.f})) == was


def test_a_local_module_that_only_the_cell_imports_counts(key, write):
    code = "from fj_outer import f\ny = f(1)"
    write("fj_outer.py", "import fj_inner.parts as parts\ndef f(x):\n    return parts.g(x)\n")
    write("fj_inner/__init__.py", "")
    write("fj_inner/parts.py", "from . import more\ndef g(x):\n    return more.h(x)\n")
    write("fj_inner/more.py", "def h(x):\n    return x + 1\n")
    was = key(code)
    assert key("import fj_none\n" + code) == key("import fj_none\n" + code)
    assert "fj_outer" not in sys.modules
    write(
        "fj_outer.py",
        "import fj_inner.parts as parts\n\ndef f(x):  # says\n    return parts.g(x)\n",
    )
    assert key(code) == was
    write("fj_inner/more.py", "def h(x):\n    return x + 10\n")
    assert key(code) != was
    write("fj_inner/more.py", "def h(x): (\n")
    assert key(code) != was


def test_a_local_module_that_a_function_imports_counts(key, write):
    write("fj_late.py", "A = 1\n")
    module = {"__name__": "__main__"}
    exec(
        "def f():\n    def g():\n        import fj_late\n        return fj_late.A\n    return g()",
        module,
    )
    was = key(values={"f": module["f"]})
    write("fj_late.py", "A = 12\n")
    assert key(values={"f": module["f"]}) != was


def test_a_relative_import_in_a_function_counts_and_its_neighbours_do_not(key, write):
    write("fj_package/__init__.py", "")
    write("fj_package/late.py", "A = 1\n")
    write("fj_package/user.py", "def f():\n    from . import late\n    return late.A\n")
    write("unrelated.py", "B = 1\n")
    use = importlib.import_module("fj_package.user").f
    was = key(values={"f": use})
    write("unrelated.py", "B = 12\n")
    assert key(values={"f": use}) == was
    write("fj_package/late.py", "A = 12\n")
    assert key(values={"f": use}) != was


def test_installed_modules_count_by_name(key):
    assert key("import numpy, json, sys\ny = 1") == key("import numpy, json, sys\ny = 1") != ""


@pytest.mark.parametrize(
    ("kind", "edited"),
    [
        (lambda folder: File(path=str(folder / "a.csv")), "a.csv"),
        (lambda folder: File(path=f"file://{folder}/a.csv"), "a.csv"),
        (lambda folder: DataFrame(uri=str(folder / "a.csv")), "a.csv"),
        (lambda folder: Dir(path=str(folder)), "below/b.csv"),
        (lambda folder: Dir(path=str(folder)), "new.csv"),
    ],
)
def test_what_lies_at_the_path_of_a_file_counts(key, write, folder, kind, edited):
    write("a.csv", "1")
    write("below/b.csv", "2")
    was = key(values={"x": [kind(folder)]})
    assert key(values={"x": [kind(folder)]}) == was != ""
    write(edited, "edited")
    assert key(values={"x": [kind(folder)]}) != was


def test_a_file_that_lies_elsewhere_counts_by_its_address(key):
    one, other = File(path="s3://store/a"), File(path="s3://store/b")
    assert key(values={"x": one}) == key(values={"x": File(path="s3://store/a")})
    assert key(values={"x": one}) != key(values={"x": other})


def test_a_file_that_has_a_hash_counts_by_it(key, write):
    write("a.csv", "1")
    was = key(values={"x": File(path="a.csv", hash="h")})
    assert key(values={"x": File(path="s3://store/b", hash="h")}) == was
    assert key(values={"x": File(path="a.csv", hash="other")}) != was


@pytest.fixture
def key_of():
    """Return the key of a call, and what was said of it."""

    def key_of(function, *args):
        said = []
        made = CellCache(FlyteJupyter(), str, said.append)
        return made.key(function.parent_env(), as_run(function, args, {}, {})), said

    return key_of


def test_functions_that_are_called_the_same_for_short_are_told_apart(key_of):
    env = flyte.TaskEnvironment(name="env", cache=Cache("auto", version_override="1"))

    @env.task(short_name="load")
    def load_train(n):
        return n

    @env.task(short_name="load")
    def load_test(n):
        return -n

    assert key_of(load_train, 3) != key_of(load_test, 3)
    assert key_of(load_train, 3) == key_of(load_train.override(short_name="other"), 3)


class _DataVersion:
    """A cache policy of the user's own."""

    version = 1

    def get_version(self, salt, params):
        assert params.func.__name__ == "build"
        return f"{salt}{10 // self.version}"


def test_a_policy_of_the_users_own_gives_a_function_its_version(key_of, monkeypatch):
    env = flyte.TaskEnvironment(name="env")

    @env.task(cache=Cache("auto", policies=[_DataVersion()]))
    def build(x):
        return x

    (was, said), again = key_of(build, 1), key_of(build, 1)
    assert (was, said) == again
    monkeypatch.setattr(_DataVersion, "version", 2)
    assert key_of(build, 1)[0] not in ("", was)
    monkeypatch.setattr(_DataVersion, "version", 0)
    no_key, (line,) = key_of(build, 1)
    assert no_key == ""
    assert line.startswith("build is not cached: its cache policy _DataVersion failed: ZeroDiv")
