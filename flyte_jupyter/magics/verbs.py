"""The verbs of ``%flyte``: what each takes, and what it asks the session for."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.backends.backend import DRIVER, member_id
from flyte_jupyter.engines.options import configured, is_installed, options_of
from flyte_jupyter.engines.registry import engine_named, engines
from flyte_jupyter.errors import ClusterError, UsageError
from flyte_jupyter.magics.arguments import MagicParser, count, workers
from flyte_jupyter.magics.doctor import examine
from flyte_jupyter.sessions import Session
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.environments import declared_in
from flyte_jupyter.sessions.runs import RunRecord
from flyte_jupyter.sessions.secret_values import variable_of, whereabouts
from flyte_jupyter.sessions.templates import described
from flyte_jupyter.widgets.links import reachable
from flyte_jupyter.widgets.progress import StartProgress
from flyte_jupyter.widgets.table import Table

_LOG_BYTES = 65536


@dataclass(frozen=True)
class Verb:
    """One verb.

    Parameters
    ----------
    help
        What it does, in a line.
    add_arguments
        Declares its arguments.
    act
        Does it, and returns what to display.
    rest
        Attribute for words that are not its own; without it they are an error.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    act: Callable[[Session, argparse.Namespace], Any]
    rest: str | None = None

    def parser(self, name: str) -> MagicParser:
        """Return the parser of this verb's line."""
        parser = MagicParser(f"%flyte {name}", description=self.help)
        self.add_arguments(parser)
        return parser


def _environment_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="variable or name of an environment")


def _optional_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "environment", metavar="ENV", nargs="?", help="variable or name of an environment"
    )


# -- env ----------------------------------------------------------------------------------------


def _env_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="environment to declare; without it, list all")
    parser.add_argument("--plugin", metavar="ENGINE", help="engine of its clusters; else plain")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # the epilog has lines
    parser.epilog = "\n".join(_engine_lines())


def _engine_lines() -> Iterator[str]:
    """Say which engines there are, and what each takes."""
    yield "engines, and what else each takes:"
    for name, engine in sorted(engines().items()):
        if not is_installed(engine):
            yield f"  {name} is not installed, type: %pip install 'flyte-jupyter[{name}]'"
            continue
        options = options_of(engine)
        yield f"  {name}" if options else f"  {name} takes nothing"
        yield from (f"    --{option:<14} {about.help}" for option, about in options.items())


def _env(session: Session, options: argparse.Namespace) -> Any:
    if options.name is None:
        return _list_environments(session)
    misnamed = UsageError("an environment is named in snake_case or kebab-case", seen=options.name)
    if not options.name.replace("-", "_").isidentifier():
        raise misnamed
    config = configured(engine_named(options.plugin or "plain"), _pairs(options.rest))
    import flyte

    try:
        declared = flyte.TaskEnvironment(name=options.name, plugin_config=config)
    except ValueError:  # Flyte asks for more of a name, and here for nothing else
        raise misnamed from None
    environment = session.declare(declared)
    environment.spec({})
    return Table(
        ["environment", "engine", "cluster"],
        [(environment.name, environment.engine.name, _would_be(environment))],
    )


def _pairs(words: list[str]) -> dict[str, str]:
    """Read ``--option value`` pairs, a line for each where one is repeated.

    Which there are is the engine's to say.
    """
    pairs: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"%flyte env: {word!r} is not an option")
        option, separator, value = word[2:].partition("=")
        if not separator:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"%flyte env: --{option} takes a value")
            value = rest.pop(0)
        pairs[option] = f"{pairs[option]}\n{value}" if option in pairs else value
    return pairs


def _would_be(environment: Any) -> str:
    roles = environment.spec({}).roles
    return ", ".join(f"{role.replicas} {role.name}" for role in roles) or "a driver"


def _list_environments(session: Session) -> Table:
    variables = {value.name: name for name, value in declared_in(session.namespace)}
    known = {value.name: value for _, value in declared_in(session.namespace)}
    rows = []
    for name, declared in {**session.declared, **known}.items():
        environment = session.environment(declared)
        cluster = session.clusters.get(name)
        state = cluster.state if cluster else "declared"
        rows.append((name, variables.get(name, ""), environment.engine.name, state))
    return Table(
        ["environment", "variable", "engine", "cluster"],
        rows,
        empty="No environment is declared: flyte.TaskEnvironment(name=...), or %flyte env NAME",
    )


# -- clusters -----------------------------------------------------------------------------------


def _up(session: Session, options: argparse.Namespace) -> Any:
    cluster = session.up(options.environment)
    progress = StartProgress(cluster, session.config.progress_after)
    seconds = 0.0
    while True:
        try:
            session.ready(cluster, timeout=0.1)
        except TimeoutError:
            seconds += 0.1
            progress.tick(seconds)
        else:
            progress.tick(seconds)
            return _status_of(cluster)


def _down(session: Session, options: argparse.Namespace) -> Any:
    stopped = session.down(options.environment)
    return Table(
        ["environment", "cluster"], [(n, "stopped") for n in stopped], empty="Nothing was up."
    )


def _scale_arguments(parser: argparse.ArgumentParser) -> None:
    _environment_argument(parser)
    parser.add_argument("workers", type=count, metavar="N", help="number of workers")
    parser.add_argument(
        "--group", default="", metavar="NAME", help="worker group, where there are several"
    )


def _scale(session: Session, options: argparse.Namespace) -> Any:
    cluster = session.scale(options.environment, options.workers, group=options.group)
    return _status_of(cluster)


def _restart(session: Session, options: argparse.Namespace) -> Any:
    return _status_of(session.restart(options.environment))


def _status(session: Session, options: argparse.Namespace) -> Any:
    if options.environment is not None:
        name = session.environment(options.environment).name
        cluster = session.clusters.get(name)
        if cluster is None:
            return Table([], [], empty=f"{name} is declared; nothing of it runs.")
        return _status_of(cluster)
    rows = [
        (c.name, c.environment.engine.name, c.state, c.summary(), c.reason.partition("\n")[0])
        for c in session.clusters.values()
    ]
    links = {
        f"{cluster.name}: {title}": url
        for cluster in session.clusters.values()
        for title, url in reachable(cluster.links).items()
    }
    return Table(
        ["environment", "engine", "state", "cluster", "reason"],
        rows,
        empty="No cluster has been started.",
        links=links,
    )


def _status_of(cluster: Cluster) -> Table:
    rows = [
        (
            member_id(m["role"], m["index"]),
            m["state"],
            str(m["pid"]),
            str(m["generation"] - 1) if m["generation"] > 1 else "",
            m["exit"],
        )
        for m in cluster.members()
    ]
    return Table(
        ["process", "state", "pid", "restarts", "last end"],
        rows,
        empty=f"{cluster.name} is {cluster.state}. {cluster.reason}",
        links=reachable(cluster.links),
    )


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="ENV|IMAGE", help="an environment, or a variable that holds a flyte.Image"
    )
    parser.add_argument(
        "--builder", default="", help="local (Docker), local-podman, or remote; as Flyte is set up"
    )
    parser.add_argument("--registry", default="", help="where to push it, if the image says not")
    parser.add_argument(
        "--force", action="store_true", help="build it although its registry has it"
    )


def _build(session: Session, options: argparse.Namespace) -> Any:
    built = session.build(
        options.image, builder=options.builder, registry=options.registry, force=options.force
    )
    took = f"{built.seconds:.1f} s" if built.seconds else ""
    links = {"build run": built.url} if built.url else {}
    row = (built.uri, built.how, built.builder, took)
    return Table(["image", "", "builder", "time"], [row], links=links)


def _secret_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        help="key of the secret to type, or group/key; without it, list those that are asked",
    )
    parser.add_argument(
        "--keyring", action="store_true", help="keep it in the system's keyring as well"
    )
    parser.add_argument("--forget", action="store_true", help="forget it instead")


def _secret(session: Session, options: argparse.Namespace) -> Any:
    if options.name is None:
        return _list_secrets(session)
    if options.forget:
        known = session.secrets.forget(options.name)
        return Table([], [], empty="It is forgotten." if known else "There was none.")
    session.secrets.ask(options.name, getpass.getpass, keyring=options.keyring)
    note = f"{options.name} is there for clusters that start from now on."
    if {options.name, variable_of(options.name)} & set(os.environ):
        note += " An environment variable of that name comes before it, though."
    return Table([], [], empty=note)


def _list_secrets(session: Session) -> Table:
    known = {value.name: value for _, value in declared_in(session.namespace)}
    rows = [
        (*row, name)
        for name, declared in {**session.declared, **known}.items()
        for row in whereabouts(session.environment(declared), session.secrets)
    ]
    return Table(
        ["secret", "variable", "found in", "environment"],
        rows,
        empty="No environment asks for a secret.",
    )


def _connectors_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=["show", "serve", "stop"],
        help="show what one is told of a task; serve them by gRPC on loopback, or stop that; "
        "without it, list them",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="variable of the task to show")
    parser.add_argument("--port", type=count, default=0, metavar="N", help="by default a free one")


def _connectors(session: Session, options: argparse.Namespace) -> Any:
    if options.action == "show":
        if options.task not in session.namespace:
            raise UsageError(
                f"no variable is called {options.task!r}" if options.task else "no task is named",
                fix="Type: %flyte connectors show TASK",
            )
        return Table(["field", "value"], described(session.namespace[options.task]))
    if options.task:
        raise UsageError(f"%flyte connectors {options.action}: takes no {options.task!r}")
    if options.action == "serve":
        return session.serve_connectors(options.port)
    if options.action == "stop":
        ran = session.stop_connectors()
        return Table([], [], empty="The connector service has stopped." if ran else "None ran.")
    rows = [
        (
            each.connector.name,
            each.connector.task_type_name,
            str(each.connector.task_type_version),
            "the notebook" if each.own else type(each.connector).__module__,
        )
        for each in session.connectors()
    ]
    return Table(
        ["connector", "task type", "version", "defined in"],
        rows,
        empty="No connector is known: define a class of flyte.connectors.AsyncConnector, "
        "or import a plugin that has one.",
    )


def _dashboard(session: Session, options: argparse.Namespace) -> Any:
    cluster = session.cluster(options.environment)
    session.ready(cluster)
    links = reachable(cluster.links)
    if not links:
        raise ClusterError(f"a {cluster.environment.engine.name} cluster has no dashboard")
    if lacking := getattr(cluster.environment.engine, "pages_lack", ""):
        session.report(lacking)
    return Table(["page", "address"], list(links.items()), links=links)


# -- runs and logs ------------------------------------------------------------------------------


def _runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=workers, default=20, metavar="N", help="only the last N")


def _runs(session: Session, options: argparse.Namespace) -> Any:
    runs = session.runs[-options.n :]
    grouped = any(run.group for run in runs)
    rows = [
        (
            f"{indent}{run.id}",
            *([run.group] if grouped else []),
            *(run.place, run.state, f"{run.seconds:.2f} s", run.error),
        )
        for indent, run in _as_tree(runs)
    ]
    return Table(
        ["run", *(["group"] if grouped else []), "environment", "state", "time", "error"],
        rows,
        empty="Nothing has run.",
        links={run.id: run.link for run in runs if run.link},
    )


def _as_tree(runs: Sequence[RunRecord]) -> Iterator[tuple[str, RunRecord]]:
    """Yield each run after the one that called it, with what to indent it by."""
    listed = {run.id for run in runs}
    children: dict[str, list[RunRecord]] = {}
    for run in runs:
        children.setdefault(run.parent if run.parent in listed else "", []).append(run)
    waiting = [("", run) for run in reversed(children.get("", []))]
    while waiting:
        indent, run = waiting.pop()
        yield f"{indent}└ " if indent or run.parent in listed else "", run
        deeper = f"{indent}  " if run.parent in listed else " "
        waiting += [(deeper, child) for child in reversed(children.get(run.id, []))]


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="RUN|ENV", help="a run (default: the last), or an environment"
    )
    parser.add_argument(
        "process",
        nargs="?",
        default=DRIVER,
        metavar="PROCESS",
        help="worker-0, scheduler-0, ..., or all of a role: worker",
    )
    parser.add_argument(
        "-n", type=count, default=0, metavar="N", help="only the last N lines; all by default"
    )


def _logs(session: Session, options: argparse.Namespace) -> Any:
    run = _run_named(session, options.what)
    if run is not None:
        text = run.log()
    else:
        cluster = session.cluster(options.what)
        text = session.log_of(cluster, options.process, _LOG_BYTES)
    lines = text.splitlines(keepends=True)
    return Text("".join(lines[-options.n :] if options.n else lines))


def _run_named(session: Session, name: str | None) -> Any:
    if name is None:
        if not session.runs:
            raise UsageError("nothing has run yet", fix="Name an environment: %flyte logs ENV")
        return session.runs[-1]
    return next((run for run in session.runs if run.id == name), None)


class Text(str):
    """Text that a notebook shows as it is, and not as a Python string."""

    __slots__ = ()

    def __repr__(self) -> str:
        return self.rstrip("\n") or "(nothing was printed)"


def _doctor(session: Session, options: argparse.Namespace) -> Any:
    del options
    return Table(["check", "", "found"], examine(session))


def _nothing(parser: argparse.ArgumentParser) -> None:
    del parser


VERBS: dict[str, Verb] = {
    "env": Verb(
        "Declare an environment without Python, or list all.", _env_arguments, _env, "rest"
    ),
    "up": Verb("Start the cluster of an environment now.", _environment_argument, _up),
    "down": Verb("Take a cluster down, or all.", _optional_environment, _down),
    "scale": Verb("Change the number of workers of a running cluster.", _scale_arguments, _scale),
    "restart": Verb(
        "Replace the driver of a cluster; its workers stay.", _environment_argument, _restart
    ),
    "status": Verb("Show clusters, or the processes of one.", _optional_environment, _status),
    "logs": Verb("Show what a run printed, or the log of a process.", _logs_arguments, _logs),
    "runs": Verb("List the runs of this session.", _runs_arguments, _runs),
    "dashboard": Verb(
        "Show the links to a cluster's web pages.", _environment_argument, _dashboard
    ),
    "build": Verb(
        "Build the real image of an environment, for tasks elsewhere.", _build_arguments, _build
    ),
    "connectors": Verb(
        "List connectors, or serve them by gRPC.", _connectors_arguments, _connectors
    ),
    "secret": Verb("Type a secret, or list those that are asked for.", _secret_arguments, _secret),
    "doctor": Verb("Check this machine and say what is missing.", _nothing, _doctor),
}
