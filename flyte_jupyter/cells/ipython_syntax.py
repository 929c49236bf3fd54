"""Make visible to the analysis what IPython hides in strings.

IPython's transform turns `!ls {folder}` into `get_ipython().system('ls {folder}')` and
`%time y = f(x)` into `get_ipython().run_line_magic('time', 'y = f(x)')`. The tree returned here has
the expanded expressions as further arguments of such calls, and the code that a magic runs as
statements before it. It is only read, never run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

Transform = Callable[[str], str]

COMPILE_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_ANY_BINDER = frozenset({"run", "pylab"})
_INSPECTORS = frozenset({"pinfo", "pinfo2", "pdoc", "pdef", "pfile", "psource", "pycat"})
_SCRIPTS = frozenset(
    {"bash", "sh", "script", "python", "python2", "python3", "pypy", "perl", "ruby", "js", "node"}
)
_SCRIPT_OUTPUT = re.compile(r"--(?:out|err|proc)[=\s]+([^\W\d]\w*)")
_DOTTED = re.compile(r"\s*([^\W\d]\w*)")


class _CodeMagic(NamedTuple):
    """How a magic that runs Python code takes its options."""

    valued: str = ""
    flags: str = ""
    own_scope: bool = False
    reads: str = ""
    binds: str = ""


_CODE_MAGICS = {
    "time": _CodeMagic(),
    "timeit": _CodeMagic("nrpv", "tcqo", own_scope=True, binds="v"),
    "prun": _CodeMagic("DlsT", "rq"),
    "memit": _CodeMagic("rti", "coq"),
    "mprun": _CodeMagic("fT", "rc", reads="f"),
    "lprun": _CodeMagic("fmDTuz", "rs", reads="f"),
    "capture": _CodeMagic(),
}


class _MagicCall(NamedTuple):
    method: str
    name: str
    line: str
    body: str


class IPythonSyntax(ast.NodeTransformer):
    """Rewrite the calls that IPython's own syntax has become."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self.binds_anything = False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Add what a shell command or a magic line expands as arguments of the call."""
        self.generic_visit(node)
        call = _magic_call(node)
        if call is not None and call.name not in _CODE_MAGICS:
            self.binds_anything |= call.name in _ANY_BINDER
            node.args.extend(_expanded(call))
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.AST]:
        """Put the code of a magic that is a statement before it."""
        return self._with_code(node, node.value)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST]:
        """Put the code of a magic whose result is assigned before it."""
        return self._with_code(node, node.value)

    def _with_code(self, node: ast.stmt, value: ast.expr) -> ast.AST | list[ast.AST]:
        self.generic_visit(node)
        call = _magic_call(value)
        if call is None:
            return node
        if call.name in _CODE_MAGICS:
            return [*self._code(call, _CODE_MAGICS[call.name]), node]
        if call.name in _SCRIPTS:
            return [node, *_bindings(_SCRIPT_OUTPUT.findall(call.line))]
        return node

    def _code(self, call: _MagicCall, magic: _CodeMagic) -> list[ast.stmt]:
        if call.name == "capture":
            outputs = [word for word in call.line.split() if word.isidentifier()]
            return [*self._parsed(call.body), *_bindings(outputs)]
        options, first = _split_options(call.line, magic)
        reads = [option for letter, option in options if letter in magic.reads]
        binds = [option for letter, option in options if letter in magic.binds]
        body = [*self._parsed(first), *self._parsed(call.body)]
        if magic.own_scope and body:
            body = [_called_function(body)]
        given = [ast.Expr(expression) for text in reads for expression in _expression(text)]
        return [*given, *body, *_bindings(binds)]

    def _parsed(self, code: str) -> list[ast.stmt]:
        """Return the statements of a magic's code; none if the magic will refuse it."""
        try:
            tree = parse(self._transform(code))
        except SyntaxError:
            return []
        rewritten: ast.Module = self.visit(tree)
        return rewritten.body


def parse(source: str) -> ast.Module:
    """Parse transformed source, refusing all that the compiler refuses.

    Raises
    ------
    SyntaxError
        Also where Python raises another exception for text that is no program.
    """
    try:
        tree = ast.parse(source)
        compile(source, "<cell>", "exec", flags=COMPILE_FLAGS, dont_inherit=True)
    except (ValueError, OverflowError, MemoryError) as error:
        raise SyntaxError(str(error) or type(error).__name__) from error
    return tree


def _magic_call(node: ast.expr) -> _MagicCall | None:
    """Recognise `get_ipython().method('...', ...)`."""
    if not (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Call)
        and isinstance(node.func.value.func, ast.Name)
        and node.func.value.func.id == "get_ipython"
    ):
        return None
    texts = [
        argument.value
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    match node.func.attr, texts:
        case "run_line_magic", [name, line, *_]:
            return _MagicCall("line", name, line, "")
        case "run_cell_magic", [name, line, body, *_]:
            return _MagicCall("cell", name, line, body)
        case "system" | "getoutput" | "getoutput_pexpect", [line, *_]:
            return _MagicCall("shell", "", line, "")
    return None


def _expanded(call: _MagicCall) -> Iterator[ast.expr]:
    """Yield what a command or a magic line reads: `{expressions}`, `$names`, a name inspected."""
    from IPython.utils.text import DollarFormatter

    if call.name in _INSPECTORS and (match := _DOTTED.match(call.line)):
        yield from _expression(match[1])
    try:
        fields = list(DollarFormatter().parse(call.line))
    except ValueError:
        return  # IPython leaves a line alone that is no format string
    for _, expression, rest, _ in fields:
        if expression:
            yield from _expression(f"{expression}:{rest}" if rest else expression)


def _expression(text: str) -> list[ast.expr]:
    try:
        return [ast.parse(text.strip(), mode="eval").body]
    except (SyntaxError, ValueError, MemoryError):
        return []


def _bindings(names: list[str]) -> list[ast.stmt]:
    return [
        ast.Assign(targets=[ast.Name(name, ast.Store())], value=ast.Constant(None))
        for name in names
        if name.isidentifier()
    ]


def _called_function(body: list[ast.stmt]) -> ast.stmt:
    """Wrap code that runs at once in a scope of its own; the decorator stands for the call."""
    function = cast(ast.FunctionDef, ast.parse("@None\ndef wrapped(): pass").body[0])
    function.name = "%timeit"  # no identifier: the cell does not bind it
    function.body = body
    return function


def _split_options(line: str, magic: _CodeMagic) -> tuple[list[tuple[str, str]], str]:
    """Split `-n 10 -o f(x)` into its options and the code after them."""
    options: list[tuple[str, str]] = []
    rest = line.lstrip()
    while match := re.match(r"(--[\w-]+|-[A-Za-z]\S*)(\s+|$)", rest):
        word, after = match[1], rest[match.end() :]
        if not word.startswith("--"):
            cluster = _cluster(word[1:], magic)
            if cluster is None:
                break
            letter, value = cluster
            if letter and not value:
                value, _, after = after.partition(" ")
            options.append((letter, value))
        rest = after.lstrip()
    return options, rest


def _cluster(letters: str, magic: _CodeMagic) -> tuple[str, str] | None:
    """Read `qn10` as ('n', '10'), `q` as ('', ''), and what are no options as None."""
    for position, letter in enumerate(letters):
        if letter in magic.valued:
            return letter, letters[position + 1 :]
        if letter not in magic.flags:
            return None
    return "", ""
