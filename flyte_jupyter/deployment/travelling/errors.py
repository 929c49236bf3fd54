"""What a task raises in a container, told so that the notebook can show it."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator

MARK = "\n\nRaised in the task:\n"
"""Between the text of an exception and its traceback."""
_HERE = os.path.dirname(__file__)  # noqa: PTH120 - a plain text, to be pickled
_OWN_FILES = (_HERE, contextlib.__file__)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Say of an exception where it was raised: Flyte takes along its type and its text alone."""
    from flyte.errors import RuntimeSystemError, RuntimeUnknownError, RuntimeUserError

    try:
        yield
    except (RuntimeUserError, RuntimeSystemError, RuntimeUnknownError):
        raise
    except SystemExit as end:
        raise RuntimeUserError(
            "SystemExit", f"the task called sys.exit(): exit code {end.code}"
        ) from None
    except Exception as error:  # noqa: BLE001 - it is raised again as what Flyte takes along
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
            trace = trace.tb_next
        text = str(error)
        if trace is not None:
            text += MARK + "".join(traceback.format_exception(type(error), error, trace))
        raise RuntimeUserError(type(error).__name__, text) from None
