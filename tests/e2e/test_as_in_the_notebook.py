"""What a task cell does as a plain cell of the same notebook would."""

from __future__ import annotations

import ast
import textwrap

import pytest

from tests.e2e.conftest import PLAIN
from tests.notebook import notebook, task
from tests.notebook import plain as plain_text


def test_a_function_sees_what_the_cell_binds(plain):
    plain.run("threshold = 0.9\ndef above(x): return x > threshold")
    assert plain.task("threshold = 0.5\nabove(0.7)").result == "True"
    assert plain.value("above(0.7)") is False


def test_a_function_binds_globals_of_the_cell(plain):
    plain.run("counted = 0\ndef count():\n    global counted\n    counted += 1")
    assert plain.task("count()\ncount()\ncounted").result == "2"
    assert plain.value("counted") == 0


def test_a_function_finds_a_name_that_only_the_cell_binds(plain):
    plain.run("def there(): return only_there + 1")
    assert plain.task("only_there = 1\nthere()").result == "2"


def test_methods_and_functions_that_call_each_other_share_the_cells_names(plain):
    plain.run("""if True:
        factor = 2
        def scaled(x): return factor * x
        class Model:
            def run(self, x): return scaled(x) + factor""")
    assert plain.task("factor = 10\nModel().run(1)").result == "20"


def test_a_task_leaves_nothing_for_functions_of_the_next(plain):
    plain.run("def leftover(): return 'left' in globals()")
    assert plain.task("left = 1\nleftover()").result == "True"
    assert plain.task("leftover()").result == "False"


def test_a_function_with_a_command_in_it_runs_it_there(plain):
    plain.run("""if True:
        import os
        def files(folder):
            out = !basename {folder}
            %cd -q {folder}
            return [*out, open.__name__, exit is not None]
        class Listing:
            def pid(self):
                return get_ipython().getoutput("echo $PPID")[0]""")
    found = plain.task("*files('/usr/'), os.getcwd(), os.getpid(), Listing().pid()").result
    name, opened, leaves, cwd, pid, of_shell = ast.literal_eval(found)
    assert (name, opened, leaves, cwd) == ("usr", "open", True, "/usr")
    assert int(of_shell) == pid != plain.pid


def test_a_class_of_the_notebook_stays_its_own_when_a_value_comes_back(plain):
    plain.run("""if True:
        limit = 1
        def helper(): return "before"
        class Model:
            count = 0
            def run(self): return helper(), limit""")
    plain.task("model = Model()\nModel.count = 5", "-o model")
    plain.run("def helper(): return 'after'\nlimit = 2")
    assert plain.value("model.run()") == ("after", 2)
    assert plain.value("Model.count") == 0
    assert plain.task("Model().run()").result == "('after', 2)"


def test_a_function_of_the_notebook_comes_back_as_itself(plain):
    plain.run("""if True:
        import pickle
        shift = 1
        def clean(x): return x + shift
        pipe = [clean]""")
    plain.task("pipe.append(clean(1))", "-o pipe")
    plain.run("shift = 5")
    assert plain.value("pipe[0] is clean, pipe[0](1), pipe[1]") == (True, 6, 2)
    assert plain.value("pickle.loads(pickle.dumps(pipe))[0] is clean") is True


def test_what_looks_for_definitions_of_the_notebook_by_name_finds_them(plain):
    plain.run("""if True:
        import flyte_jupyter, pickle
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        class Net:
            def step(self, x): return x + 1
        net = Net()
        old = pickle.dumps(net)
        @env.task
        def pickled(net: object) -> bool:
            import pickle
            return type(pickle.loads(pickle.dumps(net))) is type(net)""")
    cell = "with ProcessPoolExecutor(1, get_context('fork')) as pool:\n"
    cell += "    y = pool.submit(net.step, 1).result()\ny, type(pickle.loads(old)) is type(net)"
    assert plain.task(cell).result == "(2, True)"
    assert plain.task("type(pickle.loads(pickle.dumps(net))) is type(net)").result == "True"
    assert plain.value("flyte_jupyter.run(pickled, net=net).result()") is True


def test_a_class_of_an_exception_stays_its_own_too(plain):
    plain.run("""if True:
        def say(): return "before"
        class Own(Exception):
            def told(self): return say()""")
    assert plain.fail(task("raise Own('no')")).name == "Own"
    plain.run("def say(): return 'after'")
    assert plain.value("Own().told()") == "after"


def test_submodules_that_were_imported_by_name_are_there(plain):
    plain.run("import xml.dom.minidom")
    assert plain.task("xml.dom.minidom.parseString('<a/>').documentElement.tagName").result == "'a'"


BROKEN = "class Broken:\n    def __repr__(self): raise ValueError('cannot be shown')\n"


def test_a_last_expression_that_cannot_be_shown_is_an_error(plain):
    failure = plain.fail(task(f"{BROKEN}Broken()"))
    assert failure.name == "ValueError"
    assert "cannot be shown" in failure.traceback
    assert plain.task("1").result == "1"


def test_a_display_that_cannot_be_shown_is_told_and_the_cell_goes_on(plain):
    cell = plain.task(f"{BROKEN}display(Broken())\nprint('on')", "-o Broken")
    assert "ValueError" in cell.stderr
    assert "cannot be shown" in cell.stderr
    assert cell.stdout == "on\n"


@pytest.mark.parametrize(
    "body",
    [
        "import os, sys\nwith open(os.devnull, 'w') as f:\n    sys.stdout = f\n    print(1)",
        "import sys\nsys.stdout = sys.stderr = None",
    ],
)
def test_a_cell_may_put_anything_in_the_place_of_its_streams(plain, body):
    plain.task(body)
    assert plain.task("print('still heard')").stdout == "still heard\n"


@pytest.mark.parametrize("name", ["exp/1", "../up", "n" * 300, "größer"])
def test_a_run_may_have_any_name(plain, name):
    assert plain.task("print('heard')", f"--name {name}").stdout == "heard\n"
    assert plain.run("%flyte logs").result == "heard"


def test_a_function_does_not_take_a_secret_along(plain):
    plain.run("API_KEY = 'xyzzy'\ndef fetch(): return len(API_KEY)")
    failure = plain.fail(task("fetch()"))
    assert "`API_KEY` was not sent" in failure.value
    assert "fetch uses it" in failure.value
    assert "xyzzy" not in failure.traceback
    assert plain.task("fetch()", "-i fetch,API_KEY").result == "5"


SETTINGS = """\
import threading
API_KEY = "xyzzy"
DATA = "here"
LOCK = threading.Lock()

def place():
    with LOCK:
        return DATA
"""


def test_a_local_module_goes_without_its_secret_and_with_a_lock_of_its_own(tmp_path):
    (tmp_path / "settings.py").write_text(SETTINGS)
    with notebook(tmp_path, PLAIN, "import settings") as book:
        assert book.task("settings.place(), settings.DATA").result == "('here', 'here')"
        failure = book.fail(task("settings.API_KEY"))
        assert "`API_KEY` of settings was not sent" in failure.value
        assert "xyzzy" not in failure.traceback
        assert book.task("import settings\nlen(settings.API_KEY)").result == "5"


HELPERS = """\
count = 0
debug = False

def add():
    global count
    count += 1
    return count

def told():
    return "debug" if debug else "quiet"
"""


def test_a_local_module_and_its_functions_are_of_one_piece(tmp_path):
    (tmp_path / "pieces.py").write_text(HELPERS)
    with notebook(tmp_path, PLAIN, "import pieces\nfrom pieces import add, told") as book:
        assert book.task("pieces.add()\nadd()\npieces.count").result == "2"
        assert (
            book.task("pieces.debug = True\ntold(), pieces.told()").result == "('debug', 'debug')"
        )
        assert book.value("pieces.count, pieces.debug") == (0, False)


def test_what_a_cell_runs_and_goes_on_after_shows_its_error(plain, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise LookupError('in a file')")
    cell = plain.task(f"%run {script}\nprint('after')")
    assert "LookupError: in a file" in plain_text(cell.stderr)
    assert cell.stdout == "after\n"
    cell = plain.task("%%capture shown\nprint('captured')\n1 / 0")
    assert "ZeroDivisionError" in cell.stderr
    cell = plain.task("get_ipython().run_cell('1 +')\nprint('after')")
    assert "SyntaxError" in cell.stderr
    assert cell.stdout == "after\n"


def test_forked_children_that_are_ended_take_nothing_of_the_task_along(plain):
    body = """
        import multiprocessing, os, tempfile, time
        folder = tempfile.TemporaryDirectory()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        print(os.path.isdir(folder.name), child.exitcode)"""
    assert plain.task(textwrap.dedent(body)).stdout == "True -15\n"


def test_libraries_see_that_they_are_in_jupyter(plain):
    assert plain.task("import rich.console\nrich.console.Console().is_jupyter").result == "True"
    body = "shell = get_ipython()\n'zmq' in str(type(shell)) and 'IPKernelApp' in shell.config"
    assert plain.task(body).result == "True"


def test_a_task_follows_the_notebooks_search_path_and_environment(own, tmp_path):
    own.task("1")
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "beside.py").write_text("def greet(): return 'hello'")
    assert own.fail(task("import beside")).name == "ModuleNotFoundError"
    own.run(f"import sys, os\nsys.path.append({str(folder)!r})\nos.environ['LATE'] = '1'")
    assert (
        own.task("import beside, os\nbeside.greet(), os.environ['LATE']").result == "('hello', '1')"
    )
    own.run("sys.path.pop()\ndel os.environ['LATE']")
    assert own.task("import os\nos.environ.get('LATE')").result == ""


def test_magics_of_the_notebooks_extensions_are_there(own, tmp_path):
    (tmp_path / "an_extension.py").write_text(
        "def load_ipython_extension(shell):\n"
        "    shell.register_magic_function(lambda line: line.upper(), 'line', 'shout')\n"
    )
    own.run("%load_ext an_extension")
    assert own.task("x = %shout hello\nx").result == "'HELLO'"
    assert own.task("%shout again").result == "'AGAIN'"


def test_help_of_a_name_reaches_the_page(plain):
    cell = plain.task("def helped():\n    'How to use it.'\nhelped?")
    (page,) = [each for each in cell.reply["payload"] if each["source"] == "page"]
    assert "How to use it." in page["data"]["text/plain"]
