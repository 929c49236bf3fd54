"""What ``%flyte env --plugin`` takes for each engine: for its help, for completion, and for use.

An engine says it of itself, as `options`. What is checked, and what a value means, is its
`configure`'s to say; a test holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from flyte_jupyter.engines.engine import Engine, Option
from flyte_jupyter.engines.requirements import installed
from flyte_jupyter.errors import FlyteJupyterError, UsageError, one_line


def options_of(engine: Engine) -> Mapping[str, Option]:
    """Return the options that an engine takes, by name; empty if it takes or names none."""
    options: Mapping[str, Option] = getattr(engine, "options", {})
    return options


def configured(engine: Engine, options: Mapping[str, str]) -> Any:
    """Return the plugin config that an engine builds from options.

    Raises
    ------
    EngineError
        The engine is not installed.
    UsageError
        An option is unknown to it or has a value that makes no sense.
    """
    try:
        return engine.configure(options)
    except FlyteJupyterError:
        raise
    except Exception as error:
        given = ", ".join(f"--{option}" for option in options)
        raise UsageError(
            f"the {engine.name} engine cannot use {given or 'no options'}",
            seen=one_line(error),
            fix="See %flyte env --help",
        ) from error


def is_installed(engine: Engine) -> bool:
    """Tell by the package of its config, which is a plugin of Flyte's, whether it can be used."""
    package = engine.config_type.rpartition(".")[0]
    return not package or package in sys.modules or installed(package)
