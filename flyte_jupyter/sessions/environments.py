"""Task environments as the notebook declares them, and what of them holds here."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cloudpickle

from flyte_jupyter.engines.engine import ClusterSpec, Engine
from flyte_jupyter.engines.registry import engine_for
from flyte_jupyter.errors import (
    EngineError,
    EnvironmentNotFound,
    FlyteJupyterError,
    UsageError,
    one_line,
)
from flyte_jupyter.images import recipe

_T = TypeVar("_T")


@dataclass(frozen=True)
class Environment:
    """A `flyte.TaskEnvironment`, and the engine that makes its clusters.

    Parameters
    ----------
    declared
        The user's own object.
    engine
        What its plugin config asks for.
    """

    declared: Any
    engine: Engine

    @classmethod
    def of(cls, declared: Any) -> Environment:
        """Wrap a `flyte.TaskEnvironment`.

        Raises
        ------
        EngineError
            No engine knows its plugin config.
        """
        return cls(declared, engine_for(declared.plugin_config))

    @property
    def name(self) -> str:
        """The environment's own name."""
        name: str = self.declared.name
        return name

    @property
    def config(self) -> Any:
        """The plugin config, or None."""
        return self.declared.plugin_config

    @property
    def capacity(self) -> int | None:
        """How many of its tasks may run at once, as its reuse policy says; None for any number."""
        reuse = self.declared.reusable
        return None if reuse is None else reuse.max_replicas * reuse.concurrency

    @property
    def has_ranks(self) -> bool:
        """Whether its cells run in several processes at once, each with a number."""
        return bool(getattr(self.engine, "ranks", False))

    def spec(self, secrets: Mapping[str, str]) -> ClusterSpec:
        """Describe the cluster, with the environment's variables and `secrets` in each process.

        Raises
        ------
        EngineError
            The plugin config asks for something impossible, or for nothing that can be understood.
        ImageError
            A file that the image names cannot be read.
        """
        try:
            spec = self.engine.describe(self.config, self.declared.resources)
        except FlyteJupyterError:
            raise
        except Exception as error:
            raise self._unreadable(error) from error
        image = self._image()
        env = {**spec.env, **image.env, **(self.declared.env_vars or {}), **secrets}
        if check := getattr(self.engine, "check", None):
            check(env)
        reuse = self.declared.reusable
        if reuse is not None and spec.linger is None:
            spec = replace(spec, linger=reuse.idle_ttl.total_seconds())
        return replace(spec, env=env, packages=(*image.packages, *spec.packages))

    def _image(self) -> recipe.Recipe:
        return recipe.read(self.declared.image, self.name)

    def declaration(self, connectors: bytes = b"") -> bytes:
        """Return what a driver needs of it, pickled.

        Parameters
        ----------
        connectors
            Those of the notebook, as `connectors.travelling` gives them.
        """
        about = {"name": f"{self.name}.cell", "config": self.config, "connectors": connectors}
        data: bytes = cloudpickle.dumps(about)
        return data

    def not_honoured(self) -> dict[str, str]:
        """Return each declared field that has no effect on this machine, and why."""
        declared = self.declared
        reasons: dict[str, str] = {}
        for part, reason in self._image().not_honoured.items():
            reasons[f"image.{part}"] = reason
        if declared.resources is not None:
            reasons["resources"] = "the driver is a plain process; only workers are limited"
        for field in ("pod_template", "service_account", "queue", "interruptible"):
            if getattr(declared, field):
                reasons[field] = "only a Kubernetes backend has it"
        reuse = declared.reusable
        if reuse is not None and reuse.scope == "run":
            reasons["reusable.scope"] = "the driver is shared by all runs of the session"
        if reuse is not None and reuse.scaledown_ttl != type(reuse)().scaledown_ttl:
            reasons["reusable.scaledown_ttl"] = "all replicas are the one driver"
        if any(secret.mount for secret in self.secrets()):
            reasons["secrets.mount"] = "use as_env_var: nothing is mounted on this machine"
        reasons |= _not_honoured_of_cache(declared.cache)
        for field, reason in self._asked(self.engine.ignored).items():
            reasons[f"plugin_config.{field}"] = reason
        return reasons

    def remarks(self) -> list[str]:
        """Return what is to be known of what it declares although it is honoured."""
        remarks = getattr(self.engine, "remarks", None)
        known = list(self._asked(remarks)) if remarks else []
        if self.declared.depends_on and (circle := _circle(self.declared)):
            known.append(f"depends_on goes round in a circle: {' -> '.join(circle)}")
        return known

    def _asked(self, about: Callable[[Any], _T]) -> _T:
        """Ask the engine something about the config, which nobody may have looked at yet."""
        try:
            return about(self.config)
        except FlyteJupyterError:
            raise
        except Exception as error:
            self.spec({})  # says better what is wrong with it, if it knows
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> EngineError:
        return EngineError(
            f"the {self.engine.name} engine cannot read the plugin_config of {self.name}",
            seen=one_line(error),
            fix="Look at the types of its fields.",
        )

    def secrets(self) -> list[Any]:
        """Return the secrets that it declares, as `flyte.Secret` objects."""
        from flyte import Secret

        asked = self.declared.secrets or []
        asked = [asked] if isinstance(asked, (str, Secret)) else asked
        return [Secret(key=s) if isinstance(s, str) else s for s in asked]


def _circle(declared: Any) -> list[str]:
    """Return the names of environments that depend on each other in a circle; empty if none do."""
    waiting = [(declared, [declared.name])]
    seen = {declared.name}
    while waiting:
        environment, path = waiting.pop()
        for needed in environment.depends_on:
            if needed.name == declared.name:
                return [*path, needed.name]
            if needed.name not in seen:
                seen.add(needed.name)
                waiting.append((needed, [*path, needed.name]))
    return []


def _not_honoured_of_cache(cache: Any) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if own_policies(cache):
        reasons["cache.policies"] = "for cells, of which the code is the version; functions have it"
    return reasons


def own_policies(cache: Any) -> list[Any]:
    """Return the policies of a cache that are not Flyte's own."""
    policies = getattr(cache, "policies", None) or []
    policies = policies if isinstance(policies, list) else [policies]
    return [each for each in policies if type(each).__module__.partition(".")[0] != "flyte"]


def is_task_environment(value: object) -> bool:
    """Tell a `flyte.TaskEnvironment`, without importing Flyte for it."""
    flyte = sys.modules.get("flyte")
    return flyte is not None and isinstance(value, getattr(flyte, "TaskEnvironment", ()))


def declared_in(namespace: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """Yield the variables of a notebook that hold environments."""
    for variable, value in list(namespace.items()):
        if not variable.startswith("_") and is_task_environment(value):
            yield variable, value


def named(name: str, namespace: Mapping[str, object], declared: Mapping[str, Any]) -> Any:
    """Find an environment by its own name alone, as a task knows it.

    Parameters
    ----------
    name, namespace, declared
        As `find` has them.

    Raises
    ------
    EnvironmentNotFound
        There is none.
    """
    for value in (*declared.values(), *(found for _, found in declared_in(namespace))):
        if value.name == name:
            return value
    raise EnvironmentNotFound(f"no environment is called {name!r}")


def check_name(declared: Any, namespace: Mapping[str, object]) -> None:
    """Check that no variable of the notebook holds another environment of the same name.

    Raises
    ------
    UsageError
        One does.
    """
    held = [(each, value) for each, value in declared_in(namespace) if value.name == declared.name]
    if any(value is not declared for _, value in held):
        variables = " and ".join(dict(held))
        raise UsageError(
            f"two environments are called {declared.name!r}",
            seen=f"they are held by {variables}" if len(held) > 1 else f"{variables} is another",
            fix="Give each a name of its own.",
        )


def find(name: str, namespace: Mapping[str, object], declared: Mapping[str, Any]) -> Any:
    """Find an environment by variable or by its own name.

    Parameters
    ----------
    name
        What the user typed.
    namespace
        The notebook's variables.
    declared
        Environments declared without a variable, by name.

    Raises
    ------
    EnvironmentNotFound
        There is none; the message names the closest.
    """
    if name in namespace and is_task_environment(namespace[name]):
        return namespace[name]
    known = dict(declared)
    for variable, value in declared_in(namespace):
        known.setdefault(value.name, value)
        known.setdefault(variable, value)
    if name in known:
        return known[name]
    if name in namespace:
        kind = type(namespace[name]).__name__
        raise EnvironmentNotFound(
            f"{name!r} is not a task environment",
            seen=f"it is a {kind}",
            fix="Name a flyte.TaskEnvironment.",
        )
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        fix = f"Did you mean {close[0]!r}?"
    elif known:
        fix = f"There are {', '.join(sorted(known))}."
    else:
        fix = f"Declare one: {name} = flyte.TaskEnvironment(name={name!r}), or %flyte env {name}"
    raise EnvironmentNotFound(f"no environment is called {name!r}", fix=fix)
