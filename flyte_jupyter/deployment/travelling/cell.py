"""A cell as the function of a task, in a container."""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.deployment.travelling.boxes import boxed, opened
from flyte_jupyter.deployment.travelling.displays import Displays
from flyte_jupyter.deployment.travelling.errors import told


@dataclass(frozen=True)
class Cell:
    """A cell as a task's function.

    Parameters
    ----------
    code
        Its text, as Python.
    filename
        What tracebacks call it.
    lines
        Lines of the cell above `code`.
    values
        Functions, classes and modules that it reads, by name.
    packed
        Inputs that come as a file with a pickle in it.
    returns
        Names of its outputs.
    box
        Takes outputs that Flyte has no type for.
    """

    code: str
    filename: str
    lines: int
    values: Mapping[str, Any]
    packed: frozenset[str]
    returns: Sequence[str]
    box: Any

    def as_function(self) -> Any:
        """Return it as a coroutine function if it awaits anything, as a plain one otherwise."""
        body, last = self._compiled()
        if any(code.co_flags & inspect.CO_COROUTINE for code in (body, last) if code is not None):

            async def awaited(**inputs: Any) -> Any:
                with told():
                    return await self._awaited(inputs)

            return awaited

        def called(**inputs: Any) -> Any:
            with told():
                return self._called(inputs)

        return called

    def _called(self, inputs: Mapping[str, Any]) -> Any:
        body, last = self._compiled()
        namespace, displays = self._namespace(inputs)
        exec(body, namespace)  # noqa: S102 - it is the user's cell
        if last is not None:
            displays.show_result(eval(last, namespace))  # noqa: S307 - as above
        return self._outputs(namespace, displays)

    async def _awaited(self, inputs: Mapping[str, Any]) -> Any:
        namespace, displays = self._namespace(inputs)
        for code in self._compiled():
            if code is not None:
                value = eval(code, namespace)  # noqa: S307 - as above
                if inspect.isawaitable(value) and code.co_flags & inspect.CO_COROUTINE:
                    value = await value
                displays.show_result(value)
        return self._outputs(namespace, displays)

    def _compiled(self) -> tuple[Any, Any]:
        """Return the cell's code, and that of its last expression if it ends with one."""
        tree, last = ast.parse(self.code, self.filename), None
        ast.increment_lineno(tree, self.lines)
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            shown = not self.code.rstrip().endswith(";")
            expression = tree.body.pop()
            if shown:
                assert isinstance(expression, ast.Expr)
                last = ast.Expression(expression.value)
            else:
                tree.body.append(expression)
        flags, name = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, self.filename
        body = compile(tree, name, "exec", flags, dont_inherit=True)
        return body, last and compile(last, name, "eval", flags, dont_inherit=True)

    def _namespace(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Displays]:
        displays = Displays()
        namespace = {
            "__name__": "__main__",
            "__builtins__": builtins,
            "display": displays.show,
            **self.values,
            **opened(inputs, self.packed),
        }
        return namespace, displays

    def _outputs(self, namespace: Mapping[str, Any], displays: Displays) -> Any:
        values = []
        for name in self.returns:
            if name not in namespace:
                raise NameError(f"the cell has not bound `{name}`, which -o asks for")
            values.append(boxed(namespace[name], f"`{name}`", self.box))
        return (*values, displays.as_text()) if values else displays.as_text()
