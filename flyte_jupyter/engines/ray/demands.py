"""What runs ask of a cluster's nodes that none of them has: Ray waits for it without a word.

The line that Ray has for it comes from its autoscaler, which a cluster of one machine has not.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flyte_jupyter.engines.ray import private_driver

_FIRST, _MOST = 3.0, 30.0
"""Seconds until the first look, and at most between two."""


@dataclass(frozen=True)
class Demand:
    """Resources that are waited for.

    Parameters
    ----------
    bundles
        What single nodes must have, a task's or an actor's one or those of a placement group.
    strategy
        The placement group's; empty for a task or an actor.
    """

    bundles: private_driver.Bundles
    strategy: str = ""

    def beyond(self, nodes: list[dict[str, float]]) -> dict[str, float]:
        """Return what no node, or not all of them together, can ever give; empty if they can.

        Parameters
        ----------
        nodes
            What each node has in all.
        """
        most = _greatest(nodes)
        for bundle in self.bundles:
            if not any(_fits(bundle, node) for node in nodes):
                return {name: most.get(name, 0.0) for name in bundle}
        if not self.strategy:
            return {}
        total = _sum(self.bundles)
        if self.strategy == "STRICT_PACK" and not any(_fits(total, node) for node in nodes):
            return {name: most.get(name, 0.0) for name in total}
        everything = _sum(nodes)
        if not _fits(total, everything):
            return {name: everything.get(name, 0.0) for name in total}
        return {}


class Look:
    """Looks now and then, for as long as a run that has submitted something goes on.

    Parameters
    ----------
    goes_on
        Whether the run waits for something that it has submitted.
    """

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self._goes_on = goes_on
        self._over = threading.Event()
        self._said: set[str] = set()
        # A thread of the run's, so that what it says is there.
        threading.Thread(target=self._repeat, name="ray-demands", daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _repeat(self) -> None:
        pause, before = _FIRST, set[str]()
        while not self._over.wait(pause):
            now: set[str] = set()
            with contextlib.suppress(Exception):  # the job is being left, or the cluster has gone
                now = _seen() if self._goes_on() else now
            # Twice, for a node may just be replaced.
            lines = (now & before) - self._said
            if lines and not self._over.is_set():
                sys.stderr.write("".join(sorted(lines)))
            self._said |= lines
            pause, before = pause if now - self._said else min(2 * pause, _MOST), now


def unsatisfiable(nodes: list[dict[str, float]], demands: list[Demand]) -> set[str]:
    """Return a line for each demand that will never be met by these nodes."""
    return {_line(demand, there) for demand in demands if (there := demand.beyond(nodes))}


def _seen() -> set[str]:
    nodes, asked = private_driver.demands()
    return unsatisfiable(nodes, [Demand(bundles, strategy) for bundles, strategy in asked])


def _line(demand: Demand, there: dict[str, float]) -> str:
    asked = _shown(demand.bundles[0])
    if demand.strategy:
        asked = f"a placement group {', '.join(map(_shown, demand.bundles))} ({demand.strategy})"
    return (
        f"{asked} is waited for and no node can give it: the most is {_shown(there)}. "
        "Declare it in RayJobConfig, or ask for less.\n"
    )


def _shown(resources: dict[str, float]) -> str:
    return str({n: int(v) if v == int(v) else v for n, v in sorted(resources.items())})


def _fits(bundle: dict[str, float], node: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) >= value for name, value in bundle.items())


def _sum(bundles: Sequence[dict[str, float]]) -> dict[str, float]:
    names = {name for bundle in bundles for name in bundle}
    return {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in names}


def _greatest(nodes: list[dict[str, float]]) -> dict[str, float]:
    names = {name for node in nodes for name in node}
    return {name: max(node.get(name, 0.0) for node in nodes) for name in names}
