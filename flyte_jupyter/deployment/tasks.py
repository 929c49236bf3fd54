"""The Flyte task that a cell, or a function of the notebook, becomes on a deployment."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import linecache
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

from flyte_jupyter.deployment import travelling
from flyte_jupyter.deployment.travelling.boxes import make_box
from flyte_jupyter.deployment.travelling.cell import Cell
from flyte_jupyter.deployment.travelling.displays import SHOWN
from flyte_jupyter.deployment.travelling.functions import as_sent
from flyte_jupyter.deployment.travelling.luggage import Luggage, Thawing
from flyte_jupyter.deployment.values import Typed, inputs_of, output, packed, typed
from flyte_jupyter.driver.decorated import is_decorated
from flyte_jupyter.errors import CaptureError, UsageError, one_line


@dataclass(frozen=True)
class Sending:
    """A task and what it is called with.

    Parameters
    ----------
    task
        The template that is sent.
    inputs
        Its inputs by name.
    environment
        What it belongs to; a template only refers to it weakly.
    """

    task: Any
    inputs: Mapping[str, Typed]
    environment: Any

    @property
    def outputs(self) -> dict[str, Any]:
        """Types of its outputs by name."""
        return dict(self.task.interface.outputs)


@dataclass(frozen=True)
class CellText:
    """A cell of the notebook.

    Parameters
    ----------
    code
        Its text, as Python.
    name
        What its run is called.
    lines
        Lines above `code`.
    timeout, retries
        As the environment's tasks have them.
    """

    code: str
    name: str
    lines: int = 0
    timeout: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class Notebook:
    """What of the notebook may be needed.

    Parameters
    ----------
    modules
        Returns the files of local modules that are needed, by path: called with the text of code,
        and with pickles.
    cells
        File names of its cells.
    """

    modules: Callable[[Sequence[str], Sequence[bytes]], Mapping[str, bytes]]
    cells: Sequence[str] = field(default=())


def cell_task(
    declared: Any, cell: CellText, values: Mapping[str, Any], returns: Sequence[str], of: Notebook
) -> Sending:
    """Make a task of a cell.

    Parameters
    ----------
    declared
        The `flyte.TaskEnvironment`.
    cell
        The cell.
    values
        What it reads, by name.
    returns
        Names to bring back.
    of
        The notebook.

    Raises
    ------
    CaptureError
        A value cannot be pickled.
    UsageError
        It is more than Python.
    """
    from flyte.models import NativeInterface

    _check_plain(cell.code)
    code = {name: value for name, value in values.items() if _is_code(value)}
    inputs = {name: typed(name, value) for name, value in values.items() if name not in code}
    box, file = make_box(), f"<{cell.name}>"
    body = Cell(cell.code, file, cell.lines, code, packed(inputs), tuple(returns), box)
    function = body.as_function()
    function.__name__ = function.__qualname__ = cell.name.replace("-", "_")
    function.__module__ = "__main__"
    function.__signature__ = inspect.Signature()  # its inputs are told below
    environment = _with_those_it_calls(declared, code)
    limit = timedelta(seconds=cell.timeout)
    made = environment.task(timeout=limit, retries=cell.retries)(function)
    outputs = {**dict.fromkeys(returns, output(box)), SHOWN: str}
    interface = NativeInterface(inputs=inputs_of(inputs), outputs=outputs)
    made = replace(made, interface=interface)
    sent = _with_luggage(made, inputs, of, (file, "\n" * cell.lines + cell.code))
    return Sending(sent, inputs, environment)


def function_task(
    environment: Any, task: Any, arguments: Mapping[str, Any], of: Notebook
) -> Sending:
    """Make a task of one that the notebook declares.

    Parameters
    ----------
    environment
        What it belongs to.
    task
        What `@env.task` made, or another Flyte task.
    arguments
        What it is called with, by name.
    of
        The notebook.

    Raises
    ------
    CaptureError
        An argument cannot be pickled.
    """
    function = getattr(task, "func", None)
    if function is None or is_decorated(task):
        inputs = {name: Typed(None, value) for name, value in arguments.items()}
        sent = task if function is None else _with_luggage(task, inputs, of)
        return Sending(sent, inputs, environment)
    interface = task.interface
    inputs = {}
    for name, value in arguments.items():
        kind = interface.inputs[name][0]
        inputs[name] = typed(name, value) if _is_untyped(kind) else Typed(kind, value)
    declared = inspect.signature(function).return_annotation is not inspect.Parameter.empty
    box = make_box()
    if declared:
        # What is pickled in any case is pickled so that a class is what it was.
        outputs = {n: box if _is_untyped(kind) else kind for n, kind in interface.outputs.items()}
    else:
        outputs = {"o0": output(box)}
    boxes = [box if not declared or kind is box else None for kind in outputs.values()]
    made = copy.copy(task)
    made.func = as_sent(function, packed(inputs), boxes or [None], declared)
    made.interface = replace(
        interface, inputs={**interface.inputs, **inputs_of(inputs)}, outputs=outputs
    )
    return Sending(_with_luggage(made, inputs, of), inputs, environment)


def _is_untyped(kind: Any) -> bool:
    """Tell a type that Flyte would pickle values of."""
    from flyte.types import TypeEngine

    if kind is inspect.Parameter.empty or kind is Any:
        return True
    log = logging.getLogger("flyte")
    level = log.level
    log.setLevel(logging.ERROR)  # it would be warned of a pickle, and this one is on purpose
    try:
        return type(TypeEngine.get_transformer(kind)).__name__ == "FlytePickleTransformer"
    except Exception:  # noqa: BLE001 - it is for the SDK to say what is wrong with it
        return False
    finally:
        log.setLevel(level)


def _is_code(value: Any) -> bool:
    from flyte.extend import TaskTemplate

    return isinstance(value, ModuleType | FunctionType | type | TaskTemplate) or (
        callable(value) and type(value).__module__ == "functools"
    )


def _check_plain(code: str) -> None:
    """Refuse what only IPython runs: a container need not have it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and node.id == "get_ipython":
            raise UsageError(
                "a cell that is sent to Flyte is plain Python",
                seen=f"a magic or a shell command in line {node.lineno}",
                fix="Take it out, or run the cell here.",
            )


def _with_those_it_calls(declared: Any, code: Mapping[str, Any]) -> Any:
    """Return a copy of an environment that depends on those whose tasks a cell calls."""
    called = [
        value.parent_env()
        for value in code.values()
        if getattr(value, "parent_env", None) is not None
    ]
    known = [declared, *declared.depends_on]
    more = [each for each in called if each is not None and not any(each is k for k in known)]
    return declared.clone_with(declared.name, depends_on=[*declared.depends_on, *more])


def _with_luggage(
    task: Any, inputs: Mapping[str, Typed], of: Notebook, cell: tuple[str, str] | None = None
) -> Any:
    """Return a task that takes along what it needs in a container.

    Parameters
    ----------
    task
        The task.
    inputs
        What it is called with.
    of
        The notebook.
    cell
        File name and text of the cell that it runs, if it runs one.
    """
    with _by_value():
        try:
            data = cloudpickle.dumps(task)
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything
            raise CaptureError(f"{task.name} cannot be sent", seen=one_line(error)) from None
    texts = {name: "".join(linecache.getlines(name)) for name in of.cells if name.encode() in data}
    shown = {name: _definitions(text) for name, text in texts.items()}
    if cell is not None:
        texts |= [cell]
        shown |= [cell]
    pickles = [data, *(each.pickle for each in inputs.values())]
    files = of.modules(list(texts.values()), pickles)
    spread = getattr(task, "plugin_config", None) is not None
    return _sent(task, Luggage(files, shown, spread), data)


def _definitions(text: str) -> str:
    """Blank what of a cell is no function or class: that is nobody's business elsewhere."""
    kept: set[int] = set()
    try:
        body = ast.parse(text).body
    except SyntaxError:  # there are magics in it
        return ""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            kept.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = text.splitlines(keepends=True)
    return "".join(line if n in kept else "\n" for n, line in enumerate(lines, 1))


def _sent(task: Any, luggage: Luggage, data: bytes) -> Any:
    """Return a task that is pickled as it is now, whatever is done to it until it is sent."""
    with _by_value():
        whole: bytes = cloudpickle.dumps(Thawing(luggage, data))
    kind = type(task)

    class Sent(kind):  # type: ignore[misc, valid-type]
        """A task whose luggage is unpacked before anything else of it."""

        def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
            del protocol
            return pickle.loads, (whole,)

    Sent.__name__ = Sent.__qualname__ = kind.__name__
    sent = copy.copy(task)
    sent.__class__ = Sent
    return sent


_lock = threading.RLock()
_uses = 0


@contextlib.contextmanager
def _by_value() -> Iterator[None]:
    """Have what runs in the container pickled by value."""
    global _uses  # noqa: PLW0603
    with _lock:
        _uses += 1
        cloudpickle.register_pickle_by_value(travelling)
    try:
        yield
    finally:
        with _lock:
            _uses -= 1
            if not _uses:
                cloudpickle.unregister_pickle_by_value(travelling)
