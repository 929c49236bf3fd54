"""The plain engine: no plugin config, so no cluster but one driver process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from flyte_jupyter.engines.engine import ClusterSpec, Facts
from flyte_jupyter.errors import UsageError


class PlainEngine:
    """Tasks in a process of their own, with nothing beside it."""

    name: ClassVar[str] = "plain"
    config_type: ClassVar[str] = ""

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Describe an empty cluster: the backend adds the driver to any."""
        del config, resources
        return ClusterSpec(engine=self.name)

    def configure(self, options: Mapping[str, str]) -> None:
        """Refuse every option: there is nothing to configure."""
        if options:
            raise UsageError(
                f"a plain environment has no --{next(iter(options))}",
                fix="Name an engine with --plugin, or leave the option out.",
            )

    def links(self, facts: Facts) -> dict[str, str]:
        """Return nothing: a plain driver has no page."""
        del facts
        return {}

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Return nothing: there is no config."""
        del config
        return {}
