from __future__ import annotations

import sys
import textwrap

import pytest


@pytest.fixture
def reads(names_of):
    return lambda body: names_of(textwrap.dedent(body)).reads


@pytest.fixture
def binds(names_of):
    return lambda body: names_of(textwrap.dedent(body)).binds


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("b = a + 1\na, b", ("a",)),
        ("x = x + 1", ("x",)),
        ("x += y", ("x", "y")),
        ("x[i] += y", ("x", "i", "y")),
        ("x: T = v", ("v", "T")),
        ("x: int\nx", ("int", "x")),
        ("x: int = 1\nx", ("int",)),
        ("a, (b, *c) = v\na, b, c", ("v",)),
        ("a.b = v", ("v", "a")),
        ("a[k] = v", ("v", "a", "k")),
        ("del x", ("x",)),
        ("x = 1\ndel x\nx", ()),
        ("del x[0]", ("x",)),
        ("import numpy as np, os.path\nnp, os", ()),
        ("from m import *\na", ("a",)),
        ("f'{x!r:{width}}'", ("x", "width")),
        ("f(*args, k=v, **kw)", ("f", "args", "v", "kw")),
        ("(y := x) + y", ("x",)),
        ("{x: b, (b := 1): b}", ("x", "b")),
        ("{(b := 1): b}", ()),
        ("a < (b := 1) < (c := 2)\nb, c", ("a", "c")),
        ("await q(1)", ("q",)),
        ("__name__, __file__, __doc__", ()),
        ("__version__", ("__version__",)),
        ("global x\nx = 1\nx", ()),
        ("", ()),
    ],
)
def test_reads_of_simple_statements_come_in_order_and_stop_once_bound(reads, body, expected):
    assert reads(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("if c:\n  x = 1\nelse:\n  x = 2\nx", ("c",)),
        ("if c:\n  x = 1\nx", ("c", "x")),
        ("if c:\n  x = 1\nelse:\n  raise E\nx", ("c", "E")),
        ("if a and (m := f()):\n  m", ("a", "f")),
        ("if a and (m := f()):\n  pass\nm", ("a", "f", "m")),
        ("if not (a or (m := f())):\n  m", ("a", "f")),
        ("y = (m := f()) or m", ("f",)),
        ("y = p if (t := q) else t\ny", ("q", "p")),
        ("if True:\n  x = 1\nx", ()),
        ("for i in xs:\n  y = i\ny, i", ("xs", "y", "i")),
        ("for i in xs:\n  if i:\n    y = i\n    break\nelse:\n  y = 0\ny", ("xs",)),
        ("while c:\n  x = 1\nx", ("c", "x")),
        ("while True:\n  x = 1\n  if x: break\nx", ()),
        ("while (line := f()):\n  pass\nline", ("f",)),
        ("for i in xs:\n  continue\n  dead\ni", ("xs", "i")),
        ("try:\n  x = f()\nexcept E:\n  x = 0\nx", ("f", "E")),
        ("try:\n  x = f()\nexcept E:\n  pass\nx", ("f", "E", "x")),
        ("try:\n  x = f()\nexcept E:\n  raise\nx", ("f", "E")),
        ("try:\n  x = f()\nfinally:\n  x", ("f", "x")),
        ("try:\n  f()\nfinally:\n  x = 1\nx", ("f",)),
        ("try:\n  f()\nexcept E as e:\n  e\ne", ("f", "E", "e")),
        ("try:\n  f()\nexcept E:\n  pass\nelse:\n  x = 1\n  x", ("f", "E")),
        ("try:\n  f()\nexcept* E as e:\n  e", ("f", "E")),
        ("with open(p) as h:\n  t = h.read()\nt", ("open", "p")),
        ("with suppress(E):\n  x = f()\nx", ("suppress", "E", "f", "x")),
        ("async with a as b:\n  b\nasync for i in z:\n  i", ("a", "z")),
        ("assert (x := f()), m\nx", ("f", "m")),
        ("assert x, (m := 1)\nm", ("x", "m")),
    ],
)
def test_names_are_settled_only_where_every_way_binds_them(reads, body, expected):
    assert reads(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("match v:\n  case K.z: pass", ("v", "K")),
        ("match v:\n  case C(a=b): b", ("v", "C")),
        ("match v:\n  case {'k': w, **rest}: w, rest", ("v",)),
        ("match v:\n  case [a, *more]: a, more", ("v",)),
        ("match v:\n  case [a] | (a, _): a\n  case a: pass\na", ("v",)),
        ("match v:\n  case [a]: pass\na", ("v", "a")),
        ("match v:\n  case a if a > lim: pass\n  case _: a = 1\na", ("v", "lim")),
    ],
)
def test_match_binds_captures_and_reads_values_and_classes(reads, body, expected):
    assert reads(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[a for a in b if a > c]", ("b", "c")),
        ("[x for x in x]", ("x",)),
        ("[i for r in rows for i in r]", ("rows",)),
        ("[i for r in rows for i in s for s in t]", ("rows", "t")),
        ("[y := a for a in b]\ny", ("b", "y")),
        ("[y for a in b if (y := a)]", ("b",)),
        ("{k: v for k, v in d.items()}", ("d",)),
        ("sum(w * x for x in xs)", ("sum", "xs", "w")),
        ("[a async for a in b]", ("b",)),
        ("[a[i] for a[i] in b]", ("b", "a", "i")),
        ("[lambda: a + z for a in b]", ("b", "z")),
        ("class A:\n  n = 3\n  y = [n for _ in range(n)]", ("range", "n")),
    ],
)
def test_comprehensions_keep_their_own_names(reads, body, expected):
    assert reads(body) == expected


def test_a_function_is_read_through_where_its_name_is_read(reads):
    assert reads("def f(): return later\nf()\nlater = 1") == ("later",)
    assert reads("def f(): return later\nlater = 1\nf()") == ()
    assert reads("def f(): return never_bound") == ("never_bound",)


def test_mutual_recursion_captures_nothing(reads):
    assert reads("def f(n): return g(n)\ndef g(n): return f(n)\nf(1)") == ()


def test_functions_lead_to_the_functions_that_they_call(reads):
    body = "def f(): return g()\ndef g(): return x\ny = f()\nx = 1"
    assert reads(body) == ("x",)


def test_a_long_chain_of_functions_is_followed_without_recursion(reads):
    chain = "\n".join(f"def f{i}(): return f{i + 1}()" for i in range(3000))
    assert reads(f"{chain}\nf0()\nf3000 = 1") == ("f3000",)


def test_a_decorated_function_may_run_at_once(reads):
    body = "@register\ndef f(n): return f(n) + helper\nhelper = 1"
    assert reads(body) == ("register", "f", "helper")


@pytest.mark.parametrize(
    ("decorator", "read"),
    [
        ("functools.lru_cache(None)", "functools"),
        ("cache", "cache"),
        ("dask.delayed", "dask"),
        ("env.task", "env"),
        ("env.task(retries=3)", "env"),
    ],
)
def test_decorators_that_only_wrap_do_not_run_the_function(reads, decorator, read):
    body = f"@{decorator}\ndef f(n): return f(n) + helper\nhelper = 1\nf(1)"
    assert reads(body) == (read,)


def test_defaults_decorators_and_annotations_are_read_at_the_definition(reads):
    body = """
        @dec(a)
        def f(x: T = d, *, k=e) -> R:
            return x + k
    """
    assert reads(body) == ("dec", "a", "d", "e", "T", "R")


def test_a_lambda_is_read_at_once_unless_it_only_gets_a_name(reads):
    assert reads("apply(lambda v: v + k)\nk = 1") == ("apply", "k")
    assert reads("f = lambda v: f(v) + k\nk = 1\nf(1)") == ()


def test_nested_scopes_are_those_of_the_compiler(reads):
    body = """
        def outer(p):
            q = 1
            def inner():
                nonlocal q
                q = p + free
                class Local:
                    size = 1
                    total = size + other
                return [q for q in r]
            return inner
    """
    assert set(reads(body)) == {"free", "other", "r"}


def test_class_bodies_run_at_once_and_methods_when_the_class_is_read(reads):
    body = """
        class A(Base, metaclass=M):
            x = y
            z = x
            def method(self):
                return A, later, __class__, helper(self.x)
        later = 1
        A()
        helper = 2
    """
    assert reads(body) == ("Base", "M", "y", "helper")


def test_methods_do_not_see_the_names_of_their_class(reads):
    assert reads("class A:\n  x = 1\n  def m(self): return x") == ("x",)


def test_a_class_body_that_calls_its_method_reads_through_it(reads):
    assert reads("class A:\n  def m(): return k\n  v = m()\nk = 1") == ("k",)


def test_properties_wait_for_their_class(reads):
    body = "class A:\n  @property\n  def p(self): return A, helper()\ndef helper(): pass\nA().p"
    assert reads(body) == ("property",)


def test_private_names_are_mangled_as_in_the_class(reads):
    assert reads("class A:\n  def m(self): return __x") == ("_A__x",)
    assert reads("class _A:\n  y = __x") == ("_A__x",)


def test_global_in_a_class_body_binds_at_the_top_level(names_of):
    names = names_of("class A:\n  global g\n  g = 1\n  h = g\n")
    assert names.reads == ()
    assert names.binds == {"A", "g"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = b = 1\nc, *d = 2", {"a", "b", "c", "d"}),
        ("x.y = 1\nz[0] = 2", set()),
        ("for i in j: k = 1", {"i", "k"}),
        ("with a as b: pass", {"b"}),
        ("try: pass\nexcept E as e: pass", {"e"}),
        ("[w := 1 for _ in x]", {"w"}),
        ("import a.b, c as d\nfrom e import f as g", {"a", "d", "g"}),
        ("def f(): local = 1\nclass C: attr = 1", {"f", "C"}),
        ("def f():\n  global g\n  g = 1", {"f", "g"}),
        ("async def f():\n  def h():\n    global g\n    import g", {"f", "g"}),
        ("match v:\n  case {'k': a, **b}: pass\n  case [c, *d] as e: pass", set("abcde")),
        ("x: int", set()),
        ("%time y = 1", {"y"}),
        ("%%time\ny = 1\nz = 2", {"y", "z"}),
        ("%%capture out --no-stderr\ny = 1", {"out", "y"}),
        ("x = !ls", {"x"}),
        ("%timeit y = 1", set()),
        ("%timeit -v spent f()", {"spent"}),
        ("t = %timeit -o f()", {"t"}),
        ("%%bash --out lines --err=problems\nls", {"lines", "problems"}),
    ],
)
def test_binds_are_the_names_of_the_top_level(binds, body, expected):
    assert binds(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("!ls {folder} $name {rows[0]}", ("folder", "name", "rows")),
        ("!echo {x+1} $$HOME '{y}' ${z}", ("x", "y", "z")),
        ("files = !ls $folder", ("folder",)),
        ("!awk '{print $1}' {f", ()),
        ("!python -c 'print({1: 2})'", ()),
        ("%cd {folder}", ("folder",)),
        ("%%bash -s {x} $y\necho {not_read}", ("x", "y")),
        ("model.fit?", ("model",)),
        ("%time y = f(x)\ny", ("f", "x")),
        ("%time --no-raise-error f(x)", ("f", "x")),
        ("%timeit -n 10 -r3 -qo f(x)", ("f", "x")),
        ("%timeit -x", ("x",)),
        ("%timeit y = 1; y + k", ("k",)),
        ("%%timeit s = start\ns + body_name", ("start", "body_name")),
        ("%prun -s cumulative -l 5 f(x)", ("f", "x")),
        ("%%prun\nf(x)", ("f", "x")),
        ("%memit -r 3 f(x)", ("f", "x")),
        ("%lprun -f mod.fn -r main(x)", ("mod", "main", "x")),
        ("%mprun -f fn main(x)", ("fn", "main", "x")),
        ("%%capture\nf(x)", ("f", "x")),
        ("%%time\n!ls {folder}\ny = x\ny", ("folder", "x")),
        ("%%capture out\n%time y = {x: 1}", ("x",)),
        ("for i in r:\n    !echo $i $j\n    %time z = i", ("r", "j")),
        ("def f(local):\n    !echo {local} {outer}", ("outer",)),
        ("def f(local):\n    %time y = local + outer", ("outer",)),
        ("%time y = (", ()),
        ("%matplotlib inline", ()),
    ],
)
def test_ipython_syntax_is_read_through(reads, body, expected):
    assert tuple(name for name in reads(body) if name != "get_ipython") == expected


@pytest.mark.parametrize("body", ["from m import *", "%run script.py", "%pylab", "%run -i {s}"])
def test_whatever_may_bind_anything_says_so(names_of, body):
    assert names_of(body).star_import


def test_imports_are_the_top_level_packages_anywhere(names_of):
    body = "import a.b as x\ndef f():\n  from c.d import e\n  from . import z\n%time import g"
    assert names_of(body).imports == {"a", "c", "g"}


@pytest.mark.parametrize(
    "body", ["x = ", "return 1", "break", "a\x00b", "def f(:", "nonlocal x", "'\ud800'", "(" * 5000]
)
def test_what_python_refuses_is_a_syntax_error(names_of, body):
    with pytest.raises(SyntaxError):
        names_of(body)


def test_warnings_of_the_compiler_are_left_to_the_run(names_of):
    assert names_of("x is 1\n'\\d'").reads == ("x",)


def test_a_generated_expression_of_any_length_is_analysed(names_of):
    names = names_of("total = " + " + ".join(f"x{i % 50}" for i in range(2000)))
    assert set(names.reads) >= {f"x{i}" for i in range(50)}
    assert "total" in names.binds


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters are of Python 3.12")
def test_type_parameters_are_local_and_type_statements_lazy(reads):
    assert reads("def f[T: Bound](x: T) -> T: return g") == ("Bound", "g")
    assert reads("class A[T](Base[T]):\n  x: T\n  def m(self) -> T: return T") == ("Base",)
    assert reads("type X[T] = list[T] | later\nlater = 1\nX") == ("list",)


def test_analysis_of_an_ordinary_cell_takes_a_few_milliseconds(names_of):
    import time

    body = "import numpy as np\n" + "\n".join(
        f"def f{i}(x):\n    return np.sum([x * {i} for _ in range(3)])" for i in range(30)
    )
    names_of(body)
    start = time.perf_counter()
    names_of(body)
    assert time.perf_counter() - start < 0.2


@pytest.mark.parametrize(
    ("body", "names", "tables"),
    [
        ("df.query('price > @limit and me@host')", ("limit",), ()),
        ("f().eval(f'c = a + @b * {x} + @d')", ("b", "d"), ()),
        ("def f():\n    return df.query(expr='a > @limit')", ("limit",), ()),
        ("pd.eval('a + b')", ("a", "b"), ()),
        ("eval('x + 1')", ("x",), ()),
        ("eval('is no python')", (), ()),
        ("duckdb.sql('SELECT * FROM df JOIN\\n other ON 1')", (), ("df", "other")),
        ("con.execute('select a from one, two where b')", (), ("one", "two")),
        ("con.sql('from df')", (), ("df",)),
        ("con.sql('select * from read_csv(1) join s.t')", (), ()),
        ("print('from df import @name')", (), ()),
        ("%time df.query('a > @limit')", ("limit",), ()),
    ],
)
def test_names_in_strings(names_of, body, names, tables):
    mentioned = names_of(body).mentioned
    assert (mentioned.names, mentioned.tables) == (names, tables)
