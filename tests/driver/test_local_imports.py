from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from importlib.machinery import SourceFileLoader

import cloudpickle
import pytest

from flyte_jupyter.driver import local_imports
from flyte_jupyter.driver.local_imports import LocalFinder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        where = str(getattr(module, "__path__", "")) + str(getattr(module, "__file__", ""))
        if str(tmp_path) in where:
            if name in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.unregister_pickle_by_value(module)
            del sys.modules[name]


@pytest.fixture
def finder(folder, monkeypatch):
    finder = LocalFinder()
    finder.look_in([str(folder)])
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder


@pytest.fixture
def write(folder):
    def write(path, text=""):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return file

    return write


def by_value():
    return cloudpickle.list_registry_pickle_by_value()


def on_a_worker(value, expression):
    program = f"import pickle, sys; o = pickle.load(sys.stdin.buffer); print({expression})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=cloudpickle.dumps(value),
        capture_output=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_a_module_under_a_root_reaches_workers_by_value(finder, write):
    write("work.py", "K = 2\ndef f(x): return K * x\n")
    import work

    assert on_a_worker(work.f, "o(4)") == "8"
    assert on_a_worker(work, "o.f(4)") == "8"


def test_packages_and_folders_without_init_reach_workers(finder, write):
    write("kit/__init__.py", "from .core import run")
    write("kit/core.py", "def run(): return 1")
    write("bare/tool.py", "def f(): return 5")
    import bare.tool
    import kit

    assert on_a_worker(kit, "o.run()") == "1"
    assert on_a_worker(bare, "o.tool.f()") == "5"


def test_a_loaded_module_keeps_an_ordinary_loader(finder, write):
    write("plain.py", "x = 1")
    import plain

    assert type(plain.__loader__) is SourceFileLoader
    assert type(plain.__spec__.loader) is SourceFileLoader
    assert "x = 1" in plain.__loader__.get_source("plain")


def test_installed_modules_below_a_root_are_left_alone(finder, write, monkeypatch):
    file = write("env/lib/python3.11/site-packages/inside_env.py")
    monkeypatch.syspath_prepend(str(file.parent))
    import inside_env

    assert inside_env.__name__ not in by_value()


def test_modules_outside_of_the_roots_are_left_alone(finder, write, folder):
    finder.look_in([str(folder / "other")])
    write("outside.py")
    import outside

    assert outside.__name__ not in by_value()


def test_a_module_that_fails_on_import_is_not_registered(finder, write):
    write("failing.py", "raise RuntimeError('no')")
    with pytest.raises(RuntimeError, match="no"):
        import failing  # noqa: F401
    assert "failing" not in by_value()
    assert finder.forget_changed() == ()


def test_an_unchanged_module_stays_imported(finder, write):
    write("same.py")
    import same

    assert finder.forget_changed() == ()
    assert sys.modules["same"] is same


def test_an_edited_module_is_imported_anew(finder, write):
    write("fresh.py", "x = 1")
    import fresh

    write("fresh.py", "x = 22")
    assert finder.forget_changed() == ("fresh",)
    again = importlib.import_module("fresh")
    assert (fresh.x, again.x) == (1, 22)
    assert "fresh" in by_value()
    assert finder.forget_changed() == ()


def test_an_edit_of_the_same_size_within_a_second_is_imported(finder, write):
    file = write("quick.py", "x = 1")
    import quick

    second = int(file.stat().st_mtime)
    write("quick.py", "x = 2")
    os.utime(file, ns=(second * 10**9, second * 10**9 + 5))
    assert finder.forget_changed() == ("quick",)
    assert (quick.x, importlib.import_module("quick").x) == (1, 2)


def test_modules_that_import_an_edited_one_are_imported_anew_too(finder, write):
    write("base.py", "def f(): return 1")
    write("middle.py", "from base import f")
    write("top.py", "import middle\ndef g(): return middle.f()")
    write("apart.py")
    import apart  # noqa: F401
    import top  # noqa: F401

    write("base.py", "def f(): return 22")
    assert finder.forget_changed() == ("base", "middle", "top")
    assert "apart" in sys.modules
    assert importlib.import_module("top").g() == 22


def test_modules_that_import_each_other_are_forgotten_together(finder, write):
    write("one.py", "import two")
    write("two.py", "import one")
    import one  # noqa: F401

    write("two.py", "import one\nx = 1")
    assert finder.forget_changed() == ("one", "two")


def test_a_package_is_forgotten_with_its_submodules(finder, write):
    write("pack/__init__.py", "from .sub import f")
    write("pack/sub.py", "from . import other\ndef f(): return 1")
    write("pack/other.py")
    import pack.sub  # noqa: F401

    write("pack/sub.py", "def f(): return 22")
    assert finder.forget_changed() == ("pack", "pack.other", "pack.sub")
    again = importlib.import_module("pack.sub")
    assert importlib.import_module("pack").f() == 22
    assert sys.modules["pack"].sub is again


def test_an_old_function_still_works_and_travels_after_an_edit(finder, write):
    write("kept.py", "def f(): return 1")
    from kept import f

    write("kept.py", "def f(): return 22")
    finder.forget_changed()
    assert f() == 1
    assert on_a_worker(f, "o()") == "1"


def test_a_deleted_module_can_no_longer_be_imported(finder, write):
    write("gone.py")
    import gone  # noqa: F401

    os.unlink(sys.modules["gone"].__file__)
    assert finder.forget_changed() == ("gone",)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("gone")


def test_a_reload_by_the_user_counts_as_an_import(finder, write):
    write("again.py", "x = 1")
    import again

    write("again.py", "x = 22")
    importlib.reload(again)
    assert again.x == 22
    assert finder.forget_changed() == ()


def test_installing_again_moves_the_roots_and_adds_no_second_finder(folder, write, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = len(sys.meta_path)
    local_imports.install([])
    local_imports.install([str(folder)])
    try:
        assert len(sys.meta_path) == before + 1
        write("installed_root.py", "x = 1")
        import installed_root

        assert installed_root.__name__ in by_value()
        write("installed_root.py", "x = 22")
        assert local_imports.forget_changed() == ("installed_root",)
    finally:
        local_imports.install([])


def test_the_module_imports_the_standard_library_and_cloudpickle_only():
    program = (
        "import sys; before = set(sys.modules); import cloudpickle; base = set(sys.modules)\n"
        "import flyte_jupyter.driver.local_imports\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - base}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "['flyte_jupyter']"
