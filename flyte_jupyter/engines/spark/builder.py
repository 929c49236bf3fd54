"""`SparkSession.builder` where a session is there: quick, and not silent about what is lost.

Of an existing session only runtime settings can be changed. Spark reports all others as if they
held, and says that they do not in a log that nobody reads.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from typing import Any

from pyspark.sql import SparkSession

from flyte_jupyter.engines.spark import conf

_NAME = "spark.app.name"
_PREFIXES = ("spark.executorEnv.",)
"""Settings of a context that are not known to it by their whole names."""
_ELSEWHERE = {"spark.executor.instances": "Spark(spark_conf=...) and %flyte scale say how many"}
_said: set[str] = set()


def answer_and_tell() -> None:
    """Have `getOrCreate` answer at once where nothing is to be set, and tell what cannot be.

    Flyte's plugin calls it before every cell, to be given the session that there is; PySpark would
    set the application's name anew in it, which takes six round trips to the JVM.
    """
    builder = SparkSession.Builder
    get_or_create = builder.getOrCreate

    @functools.wraps(get_or_create)
    def get_or_create_quickly(self: Any) -> Any:
        session, asked = SparkSession._instantiatedSession, set(self._options) - {_NAME}
        if session is None or session._sc._jsc is None or "spark.remote" in asked:
            return get_or_create(self)
        if not asked:
            return session
        late = set(_late(session, self._options))
        _tell(late)
        runtime = copy.copy(self)
        runtime._options = {k: v for k, v in self._options.items() if k not in late}
        return get_or_create(runtime)

    builder.getOrCreate = get_or_create_quickly


def _late(session: Any, options: dict[str, Any]) -> Iterator[str]:
    """Yield what a session can only be made with, and this one was made without."""
    entries = session._jvm.org.apache.spark.internal.config.ConfigEntry
    made = session.sparkContext.getConf()
    for key, value in options.items():
        entry = entries.findEntry(key)
        of_context = entry is not None or key == "spark.master" or key.startswith(_PREFIXES)
        if key == _NAME or not of_context or session.conf.isModifiable(key):
            continue
        default = entry.defaultValueString() if entry is not None else None
        if not _same(made.get(key, default), value):
            yield key


def _same(one: Any, other: Any) -> bool:
    """Whether two texts of a setting mean the same, as far as their letters tell."""
    return str(one).strip().lower() == str(other).strip().lower()


def _tell(late: set[str]) -> None:
    reasons = {**_ELSEWHERE, **conf.ignored(dict.fromkeys(sorted(late - _said), ""))}
    for key in sorted(late - _said):
        reason = (
            reasons.get(key) or "put it into Spark(spark_conf=...), which the session begins with"
        )
        sys.stderr.write(f"SparkSession.builder: {key} has no effect here: {reason}.\n")
    _said.update(late)
