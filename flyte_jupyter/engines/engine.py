"""The engine contract: one description of a cluster, which every backend can run.

An engine answers one question, *what is a cluster of this environment made of*, with a
`ClusterSpec`. It never starts anything: a backend does, and calls the functions that the
description names, in processes of the cluster. So adding an engine touches no backend, and the
other way round.

Who calls what, and when:

- the session calls `Engine.describe` in the notebook kernel before anything is started;
- a backend imports `ClusterSpec.preload` once and calls `prepare(folder)` there;
- it calls each role's `target(member)` in a process of its own;
- the driver calls `connect(member)` when it starts, beside everything else that starts, and calls
  `run(job)` for every task of an engine whose cells do not run in the driver itself;
- a backend calls `retire(member)` in a process of its own before it takes members away.

Functions are named as ``"module:function"`` so that a description is plain data, can cross a
process, and imports no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from flyte_jupyter.engines.packages import PackageLayer

Facts: TypeAlias = dict[str, list[dict[str, Any]]]
"""What the members of each role said of themselves when they became ready: addresses, mostly."""


@dataclass(frozen=True)
class Role:
    """One kind of process in a cluster.

    Parameters
    ----------
    name
        What the role is called in `status`, logs and `scale`.
    target
        ``"module:function"``, called with a `Member` in a process of its own; it stays there for
        as long as the member lives.
    replicas
        How many members are wanted.
    args
        Arguments for `target`, as JSON.
    after
        Roles whose facts a member asks for; for the reader and for backends that start in order.
    vital
        Whether the cluster is lost when a member dies; members of other roles are replaced.
    scalable
        Whether `scale` may change `replicas` while the cluster runs.
    shares
        Names of those `args` that follow from `replicas`. A cluster is scaled, and not started
        anew, when its environment is declared again with another number and nothing else.
    least, most
        The fewest and the most members that the environment declares; None for no bound.
    bounds
        How an environment declares them, as ``nnodes="{least}:{most}"``; for what is said when
        other numbers are asked for. A role that has it and is not scalable is one that could be.
    """

    name: str
    target: str
    replicas: int = 1
    args: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    vital: bool = False
    scalable: bool = False
    shares: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    bounds: str = ""


@dataclass(frozen=True)
class Option:
    """An option that ``%flyte env --plugin`` takes for one engine.

    Parameters
    ----------
    help
        A few words.
    repeatable
        Whether it may be given more than once.
    """

    help: str
    repeatable: bool = False


@dataclass(frozen=True)
class ClusterSpec:
    """What one engine's cluster for one environment consists of, besides its driver.

    Parameters
    ----------
    engine
        Name of the engine.
    roles
        Its processes.
    preload
        Modules to import once, in this order, before members are started.
    driver_preload
        Modules that only the driver needs; imported while the members already start.
    prepare, retire
        Functions of the engine, named in the module's docstring; empty for none.
    connect
        The same. What it returns, if anything, are names and values that every cell begins with.
        It runs on the driver's main thread; if it raises, the next task does, and it is called
        again for the one after that.
    run
        The same: a coroutine function that runs a task's cell somewhere else than in the driver;
        it is given a `driver.job.Job` and returns its `Outcome`.
    driver_args
        Arguments for `connect` and `run`, as JSON: the driver finds them in `Member.args`.
    linger
        Seconds after the end of a run, with no other begun, after which the cluster is taken down;
        None leaves it.
    env
        Environment variables of every process.
    packages
        What every process can import beyond the notebook's own packages; `Backend.prepare` sees to
        it that it is there.
    """

    engine: str
    roles: tuple[Role, ...] = ()
    preload: tuple[str, ...] = ()
    driver_preload: tuple[str, ...] = ()
    prepare: str = ""
    connect: str = ""
    retire: str = ""
    run: str = ""
    driver_args: Mapping[str, Any] = field(default_factory=dict)
    linger: float | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # it may hold secrets
    packages: tuple[PackageLayer, ...] = ()

    def role(self, name: str) -> Role | None:
        """Return the role of that name, if the cluster has one."""
        return next((role for role in self.roles if role.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """Return the description as plain data, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClusterSpec:
        """Rebuild a description from what `as_json` gave."""
        roles = tuple(
            Role(**{**role, "after": tuple(role["after"]), "shares": tuple(role["shares"])})
            for role in data["roles"]
        )
        tuples = {key: tuple(data[key]) for key in ("preload", "driver_preload")}
        packages = tuple(PackageLayer.from_json(layer) for layer in data["packages"])
        return cls(**{**data, **tuples, "roles": roles, "packages": packages})


class Member(Protocol):
    """A process of a cluster, as seen by the engine's code inside it."""

    @property
    def role(self) -> str:
        """Name of the role."""

    @property
    def index(self) -> int:
        """Number of this member among its role, from 0."""

    @property
    def folder(self) -> Path:
        """A private folder that goes with the cluster."""

    @property
    def args(self) -> Mapping[str, Any]:
        """What `prepare` returned, overlaid with `Role.args`.

        In the driver with `ClusterSpec.driver_args`, and there the names `key`, `settings`,
        `connect` and `run` are its own.
        """

    def wait_for(self, role: str) -> dict[str, Any]:
        """Block until a member of `role` is ready, and return what it said of itself."""

    def facts(self, role: str) -> list[dict[str, Any]]:
        """Return what those members of `role` said that are ready, in the order of their index.

        One that has ended meanwhile may still be among them.
        """

    def ready(self, **facts: Any) -> None:
        """Say that this member can be used, and what others need to know of it."""


class Engine(Protocol):
    """What a cluster of one kind is made of."""

    name: ClassVar[str]
    """Short name: the word after ``--plugin``, and the extra that installs it."""

    config_type: ClassVar[str]
    """Qualified name of the Flyte plugin config that asks for this engine, as
    ``module.Class``; empty for an environment without one. A string, so that looking an engine
    up imports no plugin."""

    # An engine may also have `preload` and `driver_preload`, as its `ClusterSpec` has them: those
    # are then imported as soon as the notebook imports the plugin. One whose cells run in several
    # processes at once, of which `--ranks` chooses those to hear, has `ranks = True`. One that has
    # something to say of a config although all of it is honoured has `remarks(config)`, which
    # returns a line for each. One that says what `configure` takes, for help and completion, has
    # `options`, a mapping of names without dashes to `Option`s. One whose pages lack something has
    # `pages_lack`, a line that says what. One that needs something of the variables that the
    # cluster's processes have beside the kernel's has `check(env)`, which is given them after
    # `describe` and raises EngineError.

    def describe(self, config: Any, resources: Any) -> ClusterSpec:
        """Say what a cluster for this plugin config consists of.

        Parameters
        ----------
        config
            The environment's `plugin_config`.
        resources
            The environment's own `flyte.Resources`, or None.

        Raises
        ------
        EngineError
            The config asks for something impossible, or the engine is not installed.
        """

    def configure(self, options: Mapping[str, str]) -> Any:
        """Build the plugin config from options of ``%flyte env --plugin``.

        Raises
        ------
        UsageError
            An option is unknown to this engine or has a value that makes no sense.
        """

    def links(self, facts: Facts) -> dict[str, str]:
        """Return web pages of a running cluster, by title."""

    def ignored(self, config: Any) -> Mapping[str, str]:
        """Return fields of the plugin config that this machine cannot honour, with the reason."""
