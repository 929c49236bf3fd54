"""One task's ranks, as the driver hears them; it judges how the task ends.

A rank that has done, or failed, waits for the driver's word before it leaves. So it is the driver
that decides whether an exception is the cause or only the consequence of another rank's death, and
what torch's agents see of ranks that end by themselves is only what calls for a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import secrets
import signal
from collections.abc import Iterator
from typing import Any

from flyte_jupyter.driver.job import Job, Outcome
from flyte_jupyter.engines.pytorch.asking import Desk, ask_nodes
from flyte_jupyter.engines.pytorch.engine import nodes as least_and_most
from flyte_jupyter.engines.pytorch.failures import crashed, note_of_early_end, note_of_restart
from flyte_jupyter.engines.pytorch.frames import ERR, OUT, SAY, FrameSocket
from flyte_jupyter.engines.pytorch.links import NodeLink, RankLink
from flyte_jupyter.engines.pytorch.screen import Screen, shown_ranks
from flyte_jupyter.engines.pytorch.taking import Taken, Unit, end_of
from flyte_jupyter.engines.quantities import machine_cpus
from flyte_jupyter.errors import ClusterError, TaskTimeout

_JUDGEMENT = 0.05
"""Seconds after an exception in which the death of another rank may show as its cause."""
_EARLY = 5.0
"""Seconds after which a rank that has ended does not wait for the others any more."""
_LAST_WORDS = 1.0
"""Seconds that ranks have once one of them has failed or, after an interrupt, has ended."""
_IGNORED = 5.0
"""Seconds after which ranks that all ignore an interrupt are ended."""
_LOSSES = 3
"""Nodes that may be lost in one task, unless `max_restarts` is more; torch itself has no limit."""
_FAREWELL = 5.0
"""Seconds that agents have to end after their ranks were let go."""


def _numbers(ranks: list[RankLink]) -> list[int]:
    return sorted(rank.number for rank in ranks)


class Group:
    """All ranks of one task.

    Parameters
    ----------
    job
        The task.
    driver
        Where ranks connect.
    """

    def __init__(self, job: Job, driver: Desk) -> None:
        self.job, self._driver = job, driver
        self._config = job.config
        self._least, self._most = least_and_most(self._config.nnodes)
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._token = secrets.token_hex(8)
        self._nodes: list[NodeLink] = []
        self._ranks: list[RankLink] = []
        self._regrouping = True
        self._interrupted = False
        self._restarts = self._lost = 0
        self._restarting: set[int] = set()
        self._taken: Taken | None = None
        self._verdict: RankLink | None = None
        """How the task ends, if that is clear and rank 0 alone is still waited for."""
        world = self._most * self._config.nproc_per_node
        shown = shown_ranks(job.request["ranks"], world)
        self._screen = Screen(job.write, shown, job.member.folder / "logs")

    # -- the whole --------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Accept ranks meanwhile; in the end nothing of them is left."""
        listener = self._driver.listener
        self._loop.add_reader(listener, self._accept)
        try:
            yield
        finally:
            self._loop.remove_reader(listener)
            for link in self._links():
                if not link.leaving:
                    link.close()
            self._drop_taken()

    async def run(self) -> Outcome:
        """Run the task to its end."""
        self._warn()
        begun = self._loop.create_task(self._begin())
        begun.add_done_callback(self._begun)
        policy = self._config.run_policy
        limit = getattr(policy, "active_deadline_seconds", None)
        try:
            async with asyncio.timeout(limit):
                return await self._outcome
        except TimeoutError:
            raise TaskTimeout(
                "the ranks were stopped",
                seen=f"run_policy.active_deadline_seconds={limit} have passed",
            ) from None
        finally:
            begun.cancel()
            self._screen.finish()

    def _warn(self) -> None:
        ranks, cpus = self._most * self._config.nproc_per_node, machine_cpus()
        if ranks > cpus and not self._driver.warned:
            self._driver.warned = True
            have = "1 CPU" if cpus == 1 else f"{cpus} CPUs"
            self.job.write("stderr", f"{ranks} ranks share the {have} of this machine.\n")

    async def _begin(self) -> None:
        """Ask the nodes, from a clean start."""
        self._ranks, self._regrouping = [], True
        self._drop_taken()
        self._nodes = await ask_nodes(self.job, self._driver, self._token, self._restarts)
        for node in self._nodes:
            self._loop.add_reader(node.link.sock, self._on_node, node)

    # -- what nodes say ---------------------------------------------------------------------

    def _on_node(self, node: NodeLink) -> None:
        frames = node.link.receive()
        for _, body in frames or ():
            said = pickle.loads(body)
            getattr(self, f"_node_is_{said['is']}")(node, said)
        if frames is None:
            self._loop.remove_reader(node.link.sock)
            node.gone.set()
            if not node.ended:
                self._lose(node, "it has died, and is being replaced")

    def _node_is_restarting(self, node: NodeLink, said: dict[str, Any]) -> None:
        """Torch's agent starts its ranks again; what the old ones said does not count."""
        if self._interrupted:
            self._stop()
            return
        if self._verdict:  # whose connections were cut for it died of that
            self._end_as(self._verdict)
            return
        self._drop_taken()
        for rank in self._ranks:
            rank.old = rank.old or rank.node == node.index
        if not self._regrouping or node.index in self._restarting:
            self._restarting.clear()
        # Ranks of several nodes that go at once are restarted once.
        alone, self._regrouping = not self._restarting, True
        self._restarting.add(node.index)
        if not (said["failures"] and alone):
            return
        of = self._config.max_restarts
        if self._restarts >= of or any(map(self._has_left, self._nodes)):
            # Each agent counts the deaths of its own ranks alone, and would go on; or wait for
            # those whose ranks had all ended before.
            self._give_up(said["failures"])
            return
        self._restarts += 1
        self.job.write("stderr", note_of_restart(said["failures"], self._restarts, of))

    def _node_is_ended(self, node: NodeLink, said: dict[str, Any]) -> None:
        node.ended = True
        if said["failed"] and self._interrupted:
            self._stop()
        elif said["failed"] and self._verdict:
            self._end_as(self._verdict)
        elif said["failed"]:
            self._give_up(said["failures"])

    def _give_up(self, failures: dict[int, int]) -> None:
        self._hear_out()
        self._raise(crashed(failures, self._restarts))

    def _node_is_broken(self, node: NodeLink, said: dict[str, Any]) -> None:
        node.ended = True
        self._lose(node, said["error"])

    def _lose(self, node: NodeLink, why: str) -> None:
        if self._outcome.done():
            return
        left = len(self._nodes) - 1
        if self._verdict:
            self._end_as(self._verdict)
            return
        if self._interrupted or self._least == self._most or left < self._least:
            self._raise(ClusterError(f"node {node.index} was lost", seen=why))
            return
        self._lost += 1
        if self._lost > max(_LOSSES, self._config.max_restarts):
            what = f"{self._lost} nodes were lost, one after the other"
            self._raise(ClusterError(what, seen=why))
            return
        self._restarts += 1
        nodes = "1 node" if left == 1 else f"{left} nodes"
        self.job.write("stderr", f"Node {node.index} was lost; all ranks start again on {nodes}.\n")
        for link in self._links():
            link.close()
        task = self._loop.create_task(self._begin())
        task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._raise(task.exception())

    # -- what ranks say ---------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._driver.listener.accept()
            connection.setblocking(True)
            rank = RankLink(FrameSocket(connection), self._loop, self._screen)
            self._ranks.append(rank)
            self._loop.add_reader(connection, self._on_rank, rank)

    def _hear_out(self) -> None:
        """Take in what ranks have said before they died."""
        for rank in list(self._ranks):
            while rank.link.sock.fileno() >= 0 and not rank.over and self._on_rank(rank):
                pass
            rank.drain()

    def _on_rank(self, rank: RankLink) -> bool:
        """Take in what a rank has said; returns whether it was anything."""
        frames = rank.link.receive()
        for letter, body in frames or ():
            if letter == SAY:
                said = pickle.loads(body)
                getattr(self, f"_rank_is_{said['is']}")(rank, said)
            else:
                rank.show({OUT: "stdout", ERR: "stderr"}[letter], body)
        if frames is None:
            self._loop.remove_reader(rank.link.sock)
            rank.drain()
            rank.over = True
            rank.crashed = not rank.reply
            self._consider()
        return bool(frames)

    def _rank_is_hello(self, rank: RankLink, said: dict[str, Any]) -> None:
        if said["token"] != self._token:
            rank.close()  # of a task that is over
            return
        rank.greet(said)
        if self._interrupted:
            rank.signal(signal.SIGINT)
        present = [r for r in self._ranks if r.greeted and not (r.old or r.crashed)]
        if len(present) == rank.world:
            self._regrouping = False
            self._consider()

    def _rank_is_publish(self, rank: RankLink, said: dict[str, Any]) -> None:
        del rank
        self.job.publish(said["kind"], said["content"], said["metadata"], said["buffers"])

    def _rank_is_ref(self, rank: RankLink, said: dict[str, Any]) -> None:
        """Give it what was kept with the value that it asks for."""
        answer: dict[str, Any] = {"header": None}
        unit: Unit | None = self.job.source(said["name"])
        if unit is not None:
            frames = [bytes(frame) for frame in unit.parcel.frames]
            answer = {"header": unit.parcel.header, "frames": frames, "names": unit.names}
        with contextlib.suppress(OSError):  # it has gone meanwhile
            rank.link.say("value", **answer)

    def _rank_is_end(self, rank: RankLink, said: dict[str, Any]) -> None:
        rank.reply, rank.frames, rank.when = said["reply"], said["frames"], self._loop.time()
        if self._interrupted:
            first = not any(r.over for r in self._ranks)
            rank.over = True
            self._salvage(rank)
            rank.leave()  # its connections go with it, and free who waits at the other end
            if first:
                self._loop.call_later(_LAST_WORDS, self._stop)
            self._consider()
        elif rank.reply["status"] == "ok":
            self._loop.call_later(_EARLY, self._let_go_early)
            self._consider()
        else:
            self._loop.call_later(_JUDGEMENT, self._consider)

    def _has_left(self, node: NodeLink) -> bool:
        """Whether all ranks of a node have gone, and it takes no part in another start."""
        ranks = [rank for rank in self._present() if rank.node == node.index]
        return node.ended or (bool(ranks) and all(rank.leaving for rank in ranks))

    def _present(self) -> list[RankLink]:
        """Return the ranks of this start of the group, also those that have ended."""
        return [rank for rank in self._ranks if rank.greeted and not rank.old]

    # -- judgement --------------------------------------------------------------------------

    def _consider(self) -> None:
        """End the task if it is clear how it ends."""
        if self._outcome.done():
            return
        present = self._present()
        if self._verdict and not self._interrupted:
            if not self._is_first_awaited():
                self._end_as(self._verdict)
            return
        if self._interrupted:
            if present and not self._regrouping and all(rank.over for rank in present):
                self._stop()
            return
        if self._regrouping or any(rank.crashed for rank in present):
            return  # torch's agent begins anew, or gives up
        failed = [rank for rank in present if rank.failed]
        if failed and self._loop.time() - failed[0].when >= _JUDGEMENT * 0.9:
            self._fail(min(failed, key=lambda rank: rank.when))
        elif not failed and all(rank.reply for rank in present):
            self._succeed(present)

    def _fail(self, rank: RankLink) -> None:
        """End as a rank did; if rank 0 may be about to bring what it has bound, in a moment."""
        if self._interrupted or not self._is_first_awaited():
            self._end_as(rank)
            return
        self._verdict = rank
        rank.leave()  # its connections go with it, and free who waits at the other end
        self._loop.call_later(_LAST_WORDS, self._end_as, rank)

    def _is_first_awaited(self) -> bool:
        request = self.job.request
        asked = not request["call"] and bool(request["returns"] or request["keeps"])
        return asked and any(not (r.number or r.reply or r.over) for r in self._present())

    def _end_as(self, rank: RankLink) -> None:
        """End as a rank did, with what rank 0 has bound, where that has ended too."""
        if self._outcome.done():
            return
        rank.drain()
        for other in self._present():
            self._salvage(other)
        taken, self._taken = self._taken, None
        outcome = Outcome(*end_of(rank))
        if taken:
            with contextlib.suppress(Exception):  # a user's object: the error says more
                outcome = taken.outcome(self.job.keep, outcome.reply, outcome.frames)
        self._set(outcome)

    def _salvage(self, rank: RankLink) -> None:
        if rank.reply and "outputs" in rank.reply:
            with contextlib.suppress(Exception):  # the same
                self._take(rank)

    def _succeed(self, ranks: list[RankLink]) -> None:
        try:
            for rank in ranks:
                rank.drain()
                self._take(rank)
            assert self._taken is not None, "there is a rank 0"
            outcome = self._taken.outcome(self.job.keep, {"status": "ok"})
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything
            self._raise(error)
            return
        self._taken = None
        links: list[NodeLink | RankLink] = [*ranks, *self._nodes]
        for link in links:
            link.leave()
        self._driver.leaving = asyncio.ensure_future(self._part())
        self._set(outcome)

    def _take(self, rank: RankLink) -> None:
        """Take over what rank 0 returns, which goes when it does."""
        if rank.number == 0 and self._taken is None:
            self._taken = Taken(rank)

    def _drop_taken(self) -> None:
        if self._taken is not None:
            self._taken.close()
            self._taken = None

    def _let_go_early(self) -> None:
        """Let ranks that have ended go, so that no other waits for them in a collective for ever.

        As under torchrun: their connections are cut, and who waits at the other end fails.
        """
        if self._outcome.done() or self._interrupted or self._regrouping:
            return
        present = self._present()
        ended = [rank for rank in present if rank.reply and not rank.leaving]
        going = [rank for rank in present if not rank.reply]
        if not ended or any(rank.failed for rank in ended):
            return
        try:
            for rank in ended:
                rank.drain()
                self._take(rank)
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything
            self._raise(error)
            return
        self.job.write("stderr", note_of_early_end(*(_numbers(r) for r in (ended, going))))
        for rank in ended:
            rank.leave()

    async def _part(self) -> None:
        """Let agents end by themselves, and see to it that they do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                for node in self._nodes:
                    await node.gone.wait()
        for link in self._links():
            link.close()

    def _links(self) -> list[NodeLink | RankLink]:
        return [*self._nodes, *self._ranks]

    # -- interrupts -------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in every rank."""
        self._interrupted = True
        for rank in self._ranks:
            rank.signal(signal.SIGINT)
        if any(rank.reply for rank in self._ranks):
            self._loop.call_later(_LAST_WORDS, self._stop)
        self._loop.call_later(_IGNORED, self._stop)

    def _stop(self) -> None:
        """End with what the interrupted ranks said, and the ranks with it."""
        stopped = [
            r for r in self._ranks if r.reply and r.reply.get("ename") == "KeyboardInterrupt"
        ]
        if stopped:
            self._fail(min(stopped, key=lambda rank: rank.number))
        else:
            self._raise(KeyboardInterrupt())

    # -- the end ----------------------------------------------------------------------------

    def _set(self, outcome: Outcome) -> None:
        if self._outcome.done():
            if outcome.outputs:
                outcome.outputs.close()
        else:
            self._outcome.set_result(outcome)

    def _raise(self, error: BaseException | None) -> None:
        if error is not None and not self._outcome.done():
            self._outcome.set_exception(error)
