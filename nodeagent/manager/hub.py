"""Tells every worker what is known, and asks them what happened. A worker that starts late gets everything that the
others have."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from control.wire.watch import Batch
from nodeagent.channel import (
    BatchApplied,
    Begin,
    Collect,
    Collected,
    Departed,
    Drain,
    Drained,
    EnrolmentUpdate,
    FlowList,
    Heard,
    Inside,
    ListFlows,
    Load,
    Message,
    Namespaces,
    NamespaceState,
    Ready,
    SpliceExclusions,
    SpliceStuck,
    Spread,
    Start,
    Svid,
    pack,
)
from nodeagent.client.mirror import Mirror, changes_of
from nodeagent.manager.link import WorkerLink
from nodeagent.manager.packing import Packing
from nodeagent.manager.parting import PART_CHANGES, parts
from nodeagent.telemetry.aggregate import Aggregate

ANSWER_SECONDS = 2.0
"""How long a worker may take to answer; the others' answers are used without it."""

logger = logging.getLogger(__name__)

A = TypeVar("A")


class _Round(Generic[A]):
    """One question to every worker, until all have answered or are gone."""

    def __init__(self, asked: set[WorkerLink]) -> None:
        self.waiting = set(asked)
        self.answers: list[tuple[WorkerLink, A]] = []
        self.done = asyncio.Event()
        self._check()

    def answer(self, link: WorkerLink, answer: A) -> None:
        """A worker's answer; a second one is not counted."""
        if link in self.waiting:
            self.answers.append((link, answer))
        self.leave(link)

    def leave(self, link: WorkerLink) -> None:
        """The worker has answered, or will not."""
        self.waiting.discard(link)
        self._check()

    def _check(self) -> None:
        if not self.waiting:
            self.done.set()


class Hub:
    """All workers. ``on_change`` is called when one becomes ready or is lost."""

    def __init__(
        self,
        start: Callable[[], Start],
        mirror: Mirror,
        aggregate: Aggregate,
        on_change: Callable[[], None],
        packing: Packing,
    ) -> None:
        """``start`` says how a worker that starts now is to run, but for its index."""
        self._start = start
        self._mirror = mirror
        self._aggregate = aggregate
        self._on_change = on_change
        self._links: set[WorkerLink] = set()
        self._svids: dict[str, Svid] = {}
        self._enrolment = EnrolmentUpdate(cgroups={})
        self._exclusions = SpliceExclusions(workloads={})
        self.on_stuck: Callable[[Mapping[str, str]], None] | None = None
        """Told by which workloads (uid) a flow got stuck in a worker's splice, and why."""
        self._namespaces = Namespaces(namespaces=(), homes={})
        self._packing = packing
        self._numbers = itertools.count(1)
        self._rounds: dict[int, _Round[Any]] = {}
        self._drained: _Round[Drained] | None = None

    @property
    def links(self) -> list[WorkerLink]:
        """Every worker, by index."""
        return sorted(self._links, key=lambda link: link.index)

    @property
    def serving(self) -> int:
        """Workers whose listeners are open."""
        return sum(link.ready for link in self._links)

    @property
    def heard(self) -> int:
        """The edition of the enrolment that every worker with open listeners knows; -1 if there is no such worker."""
        return min((link.heard for link in self._links if link.ready), default=-1)

    def new_link(self, index: int) -> WorkerLink:
        """A link for a worker that is about to start; ``attach`` it when its socket is connected."""
        return WorkerLink(index, self._on_message)

    def attach(self, link: WorkerLink) -> None:
        """Tell a new worker everything, in the order in which it needs it."""
        self._links.add(link)
        link.send(replace(self._start(), index=link.index))
        if self._exclusions.workloads or self._exclusions.everybody:
            link.send(self._exclusions)  # first: without state it denies, and has no flow that could be kept out
        if self._mirror.loaded:
            # without state the worker is told nothing, and denies: an empty snapshot would claim an empty mesh
            head = Batch(instance=self._mirror.instance, revision=self._mirror.revision, snapshot=True)
            link.send_all(parts(head, changes_of(self._mirror.held())))
        link.send(self._enrolment)
        if self._namespaces.namespaces or self._namespaces.homes:
            link.send(self._namespaces)
        for svid in self._svids.values():
            link.send(svid)
        if self._packing.active > 1:  # one is what a worker begins with
            link.send(Spread(workers=self._packing.active))
        link.send(Begin())

    def detach(self, link: WorkerLink) -> None:
        """The worker is gone: its counts stay, nobody waits for it."""
        self._links.discard(link)
        self._aggregate.retire(id(link))
        rounds = list(self._rounds.values()) + ([self._drained] if self._drained else [])
        for waiting in rounds:
            waiting.leave(link)
        self._on_change()

    def publish(self, batch: Batch) -> None:
        """A batch that the mirror holds already. Objects go to the workers as the bytes that control sent."""
        if len(batch.changes) > PART_CHANGES:
            for link in list(self._links):
                link.send_all(parts(batch, batch.changes))
        elif self._links:
            for packed in parts(batch, batch.changes):
                self._broadcast_packed(packed)

    def publish_svid(self, svid: Svid) -> None:
        """An SVID that is new or renewed; an empty chain takes it away."""
        if svid.chain:
            self._svids[svid.identity] = svid
        else:
            self._svids.pop(svid.identity, None)
        self._broadcast(svid)

    def publish_enrolment(self, cgroups: Mapping[int, str]) -> int:
        """Tell the workers whose each enrolled cgroup is, *before* its connections can be captured. The edition: every
        worker knows of it once ``heard`` is at least that.
        """
        named = {str(cgroup): uid for cgroup, uid in cgroups.items()}
        if named != self._enrolment.cgroups:
            self._enrolment = EnrolmentUpdate(cgroups=named, edition=self._enrolment.edition + 1)
            self._broadcast(self._enrolment)
        return self._enrolment.edition

    def publish_exclusions(self, workloads: Mapping[str, str], everybody: str = "") -> None:
        """Which workloads (uid) every worker is to keep out of the splice, and why; or why all of them."""
        self._exclusions = SpliceExclusions(workloads=dict(workloads), everybody=everybody)
        self._broadcast(self._exclusions)

    def publish_departed(self, cgroups: Mapping[int, str]) -> None:
        """These cgroups are gone; to be told after the enrolment without them."""
        self._broadcast(Departed(cgroups={str(cgroup): uid for cgroup, uid in cgroups.items()}))

    def publish_namespaces(self, namespaces: Namespaces) -> None:
        """Where enrolled processes live; to be told after their enrolment."""
        self._namespaces = namespaces
        self._broadcast(namespaces)

    def inside(self) -> list[NamespaceState]:
        """What the workers made of the namespaces."""
        return [state for link in self._links if link.ready for state in link.inside]

    async def collect(self) -> None:
        """Bring the aggregate up to date; a worker that does not answer in ANSWER_SECONDS keeps its last samples."""
        await self._ask(lambda number: Collect(number=number))

    async def flows(self) -> dict[str, Any]:
        """Live connections and tunnels of all workers, each with its worker's index."""
        answers: list[tuple[WorkerLink, FlowList]] = await self._ask(lambda number: ListFlows(number=number))
        return {
            "flows": [{"worker": link.index, **flow} for link, answer in answers for flow in answer.flows],
            "tunnels": [{"worker": link.index, **tunnel} for link, answer in answers for tunnel in answer.tunnels],
            "truncated": any(answer.truncated for _, answer in answers),
            "unanswered": len([link for link in self._links if link.ready]) - len(answers),
        }

    async def drain(self, seconds: float) -> int:
        """Let the workers end their connections; how many connections were cut at the end."""
        self._drained = _Round(set(self._links))
        self._broadcast(Drain(seconds=seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + ANSWER_SECONDS):
                await self._drained.done.wait()
        return sum(answer.cut for _, answer in self._drained.answers)

    async def _ask(self, question: Callable[[int], Collect | ListFlows]) -> list[tuple[WorkerLink, Any]]:
        number = next(self._numbers)
        waiting: _Round[Any] = _Round({link for link in self._links if link.ready})
        self._rounds[number] = waiting
        try:
            packed = pack(question(number))
            for link in waiting.waiting:
                link.send_packed(packed)
            async with asyncio.timeout(ANSWER_SECONDS):
                await waiting.done.wait()
        except TimeoutError:
            logger.warning("workers %s did not answer in time", sorted(link.index for link in waiting.waiting))
        finally:
            del self._rounds[number]
        return waiting.answers

    def _pack(self) -> None:
        before = self._packing.active
        loads = [(link.pid, link.load) for link in self._links if link.load is not None]
        active = self._packing.decide(loads, time.monotonic())
        if active != before:
            self._broadcast(Spread(workers=active))

    def _broadcast(self, message: Message) -> None:
        if not self._links:
            return
        self._broadcast_packed(pack(message))

    def _broadcast_packed(self, packed: bytes) -> None:
        for link in list(self._links):
            link.send_packed(packed)

    def _on_message(self, link: WorkerLink, message: Message) -> None:
        if isinstance(message, Ready):
            link.ready, link.pid = True, message.pid
            self._on_change()
        elif isinstance(message, BatchApplied):
            link.revision, link.rejected = message.revision, message.rejected
            for item in message.rejected:
                logger.error("worker %d refused a part of revision %d: %s", link.index, message.revision, item)
        elif isinstance(message, Load):
            link.load = message
            self._pack()
        elif isinstance(message, SpliceStuck):
            if self.on_stuck is not None:
                self.on_stuck(message.workloads)
        elif isinstance(message, (Heard, Inside)):
            self._on_whereabouts(link, message)
        elif isinstance(message, (Collected, FlowList)):
            self._on_answer(link, message)
        elif isinstance(message, Drained):
            if self._drained is not None:
                self._drained.answer(link, message)
        else:
            logger.error("worker %d sent %s, which only the manager says", link.index, type(message).__name__)

    def _on_whereabouts(self, link: WorkerLink, message: Heard | Inside) -> None:
        if isinstance(message, Heard):
            link.heard = message.edition
        else:
            link.inside = message.states
        self._on_change()

    def _on_answer(self, link: WorkerLink, message: Collected | FlowList) -> None:
        if isinstance(message, Collected) and link in self._links:
            # late answers count too: workers tell each change once
            self._aggregate.update(id(link), message.samples)
        waiting = self._rounds.get(message.number)
        if waiting is not None:
            waiting.answer(link, message)
