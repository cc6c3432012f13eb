"""The splice's switching rule in a small exact model, through *all* interleavings: writer threads, the agent, the
reader, failures, the kill switch.

Atomic steps are those of the kernel. A verdict and a push into TCP hold the sender's socket lock (one step each); a
redirect gives it up between the verdict and the queueing. The reader takes redirected bytes before TCP's
(``tcp_bpf_recvmsg``) and its count follows in a step of its own. TCP sends that fail leave the verdict PASS behind for
the next message.

Checked in every state: a writer's bytes are read in the order of its writes, none twice, none lost, and the queue is
bounded. At every end: everything was read. The same machine with each safeguard removed in turn is shown to go wrong,
so that the model is known to see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest

LIMIT = 2
"""Unread messages that a direction may hold when one more is redirected."""

T = TypeVar("T")
Message = tuple[int, int]
"""Writer and number; each is one byte long."""


@dataclass(frozen=True)
class World:
    """Everything that decides what can happen next."""

    todo: tuple[tuple[Message, ...], ...]
    """Per writer: what it still has to send."""
    redirecting: tuple[Message | None, ...]
    """Per writer: a message after its verdict, before it is queued (the socket's lock is free meanwhile)."""
    spliced: bool = False
    redirected: int = 0
    """Counted by the verdict."""
    written: int = 0
    """Bytes ever put into the sender's TCP stream (its sequence number)."""
    consumed: int = 0
    stale_pass: bool = False
    """The kernel remembers PASS from a send that failed: the next message has no verdict."""
    tcp: tuple[Message, ...] = ()
    """In the sender's and the agent's receive buffers."""
    agent: tuple[Message, ...] = ()
    """Read by the agent, not yet written to the receiver."""
    arrived: tuple[Message, ...] = ()
    """In the receiver's TCP queue."""
    queue: tuple[Message, ...] = ()
    """Redirected, in the receiver's socket."""
    uncounted: int = 0
    """Read, but the tracepoint has not run yet."""
    got: tuple[Message, ...] = ()
    stopped: bool = False
    stops_left: int = 1
    failures_left: int = 1
    lost: int = 0
    """Redirects that failed: counted, never queued; the application was told and tries again."""


@dataclass(frozen=True)
class Rule:
    """The safeguards, each of which can be taken away."""

    sticky: bool = True
    """PASS until everything is read."""
    count_first: bool = True
    """Redirected bytes are counted before they are queued."""
    count_tcp_by_sequence: bool = True
    """Not by adding up what verdicts passed."""
    bounded: bool = True
    wait_for_count: bool = True
    """A byte is unread until its read was counted (not: until the queues look empty)."""


def unread(world: World, rule: Rule) -> int:
    if not rule.wait_for_count:
        return len(world.queue) + len(world.arrived)
    return world.written + world.redirected - world.consumed


def verdicts(world: World, writer: int, rule: Rule) -> World:
    """The sender's socket lock is held: decide the writer's next message and send it, or begin to redirect it."""
    message, *rest = world.todo[writer]
    after = replace(world, todo=_with(world.todo, writer, tuple(rest)))
    if world.stale_pass:
        counted = world.written + 1 if rule.count_tcp_by_sequence else world.written
        return replace(after, tcp=(*world.tcp, message), written=counted, stale_pass=False)
    waiting = unread(world, rule)
    room = waiting < LIMIT or not rule.bounded
    spliced = not world.stopped and room and (world.spliced or waiting == 0 or not rule.sticky)
    if spliced:
        counted = world.redirected + 1 if rule.count_first else world.redirected
        moving = _with(world.redirecting, writer, message)
        return replace(after, spliced=True, redirected=counted, redirecting=moving)
    return replace(after, spliced=False, tcp=(*world.tcp, message), written=world.written + 1)


def steps(world: World, rule: Rule) -> Iterator[World]:
    """Every state that one atomic step leads to."""
    for writer, moving in enumerate(world.redirecting):
        if moving is None:
            if world.todo[writer]:
                yield verdicts(world, writer, rule)
            continue
        done = replace(world, redirecting=_with(world.redirecting, writer, None))
        counted = done if rule.count_first else replace(done, redirected=done.redirected + 1)
        yield replace(counted, queue=(*world.queue, moving))
        if world.failures_left:  # ENOMEM: the application sends it again
            retry = _with(world.todo, writer, (moving, *world.todo[writer]))
            yield replace(done, todo=retry, failures_left=world.failures_left - 1, lost=world.lost + 1)
    if (
        world.failures_left and not world.spliced and any(world.todo)
    ):  # EAGAIN after a verdict of PASS: nothing was written
        yield replace(world, stale_pass=True, failures_left=world.failures_left - 1)
    if world.tcp:
        yield replace(world, agent=(*world.agent, *world.tcp[:1]), tcp=world.tcp[1:])
    if world.agent:
        yield replace(world, arrived=(*world.arrived, *world.agent[:1]), agent=world.agent[1:])
    if not world.uncounted:
        if world.queue:
            yield replace(world, got=(*world.got, world.queue[0]), queue=world.queue[1:], uncounted=1)
        elif world.arrived:
            yield replace(world, got=(*world.got, world.arrived[0]), arrived=world.arrived[1:], uncounted=1)
    else:
        yield replace(world, consumed=world.consumed + world.uncounted, uncounted=0)
    if world.stops_left or world.stopped:
        yield replace(world, stopped=not world.stopped, stops_left=world.stops_left - (not world.stopped))


def _with(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


class BrokenError(Exception):
    """An invariant does not hold; the message says which."""


def check(world: World) -> None:
    last: dict[int, int] = {}
    for writer, number in world.got:
        if number != last.get(writer, -1) + 1:
            raise BrokenError(f"order: {world.got}")
        last[writer] = number
    if len(world.queue) + sum(moving is not None for moving in world.redirecting) > LIMIT:
        raise BrokenError(f"queue: {world}")


def explore(rule: Rule, writers: tuple[int, ...]) -> int:
    """Walk all interleavings; the number of states. BrokenError in the first bad one."""
    todo = tuple(tuple((writer, number) for number in range(count)) for writer, count in enumerate(writers))
    start = World(todo, (None,) * len(writers))
    seen, stack = {start}, [start]
    while stack:
        world = stack.pop()
        check(world)
        after = list(steps(world, rule))
        moving = [state for state in after if state.stopped == world.stopped]
        if not moving and len(world.got) != sum(writers):
            raise BrokenError(f"stuck: {world}")
        if not moving and rule == Rule() and world.written + world.redirected != world.consumed + world.lost:
            raise BrokenError(f"count: {world}")
        for state in after:
            if state not in seen:
                seen.add(state)
                stack.append(state)
    return len(seen)


@pytest.mark.parametrize("writers", [(8,), (3, 2), (4, 1), (2, 1, 1)], ids=str)
def test_every_interleaving_keeps_order_bytes_and_bound(writers: tuple[int, ...]) -> None:
    assert explore(Rule(), writers) > 500


@pytest.mark.parametrize(
    ("rule", "writers"),
    [
        (Rule(sticky=False), (6,)),
        (Rule(count_first=False), (3, 1)),
        (Rule(count_tcp_by_sequence=False), (6,)),
        (Rule(bounded=False), (6,)),
        (Rule(wait_for_count=False), (6,)),
    ],
    ids=["not sticky", "counted late", "verdicts added up", "no limit", "queues looked at"],
)
def test_without_a_safeguard_it_goes_wrong(rule: Rule, writers: tuple[int, ...]) -> None:
    with pytest.raises(BrokenError):
        explore(rule, writers)


def test_splicing_comes_back_after_a_pause() -> None:
    """The rule is not safe merely by never splicing: from every quiet state the next message is redirected."""
    quiet = World(
        todo=(((0, 0),),), redirecting=(None,), written=3, redirected=2, consumed=5, stops_left=0, failures_left=0
    )
    assert verdicts(quiet, 0, Rule()).spliced
    assert not verdicts(replace(quiet, stopped=True), 0, Rule()).spliced
