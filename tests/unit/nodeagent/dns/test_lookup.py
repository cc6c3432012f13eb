"""Names outside the mesh: remembered as long as they are good, asked for once, bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import dns.exception
import dns.rdatatype
import dns.resolver
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.dns import remembered
from nodeagent.dns.io import lookup
from nodeagent.dns.io.lookup import NameLookup
from nodeagent.dns.remembered import (
    LONGEST_SECONDS,
    MAX_NAMES,
    RETRY_SECONDS,
    STALE_SECONDS,
    RememberedNames,
    is_outside,
)

A, AAAA = dns.rdatatype.A, dns.rdatatype.AAAA
HOST = "api.example.com"


class World:
    """Resolvers, a clock, and the loop's tasks."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[Any, Any] = {A: (("192.0.2.1",), 60.0), AAAA: (("2001:db8::1",), 30.0)}
        self.gate: asyncio.Event | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.lookup = NameLookup(self.ask, lambda: self.now, self.spawn)

    async def ask(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[tuple[str, ...], float]:
        self.asked.append((name, kind.name))
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers[kind]
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def fail(self, error: BaseException) -> None:
        self.answers = {A: error, AAAA: error}


def story(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def with_world() -> None:
            world = World()
            async with asyncio.timeout(10):
                await test(world)
                assert not world.tasks

        asyncio.run(with_world())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@story
async def test_both_families_are_found_and_remembered_for_the_shorter_time(world: World) -> None:
    assert await world.lookup(HOST) == ("192.0.2.1", "2001:db8::1")
    world.now += 29
    assert await world.lookup(HOST) == ("192.0.2.1", "2001:db8::1")
    assert world.asked == [(HOST, "A"), (HOST, "AAAA")]
    world.now += 2
    await world.lookup(HOST)
    assert len(world.asked) == 4


@story
async def test_many_connections_ask_once(world: World) -> None:
    world.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.lookup(HOST)) for _ in range(50)]
    while len(world.asked) < 2:
        await asyncio.sleep(0)
    world.gate.set()
    assert {await each for each in waiting} == {("192.0.2.1", "2001:db8::1")}
    assert len(world.asked) == 2


@story
async def test_who_gives_up_takes_nobody_along(world: World) -> None:
    world.gate = asyncio.Event()
    first, second = (asyncio.create_task(world.lookup(HOST)) for _ in range(2))
    while len(world.asked) < 2:
        await asyncio.sleep(0)
    first.cancel()
    world.gate.set()
    assert await second


@story
async def test_one_family_is_enough(world: World) -> None:
    world.answers[AAAA] = dns.exception.Timeout()
    assert await world.lookup(HOST) == ("192.0.2.1",)


@pytest.mark.parametrize("error", [dns.resolver.NXDOMAIN(), None])
def test_a_name_without_addresses_says_so_for_a_while(error: BaseException | None) -> None:
    @story
    async def run(world: World) -> None:
        world.answers = {A: error or ((), 60.0), AAAA: error or ((), 60.0)}
        for _ in range(3):
            with pytest.raises(socket.gaierror) as caught:
                await world.lookup(HOST)
            assert caught.value.errno == socket.EAI_NONAME and caught.value.strerror
        assert len(world.asked) == 2

    run()


@story
async def test_while_the_resolvers_fail_the_last_answer_serves(world: World) -> None:
    await world.lookup(HOST)
    world.fail(dns.resolver.NoNameservers())
    world.now += 100
    assert await world.lookup(HOST) == ("192.0.2.1", "2001:db8::1")
    asked = len(world.asked)
    assert await world.lookup(HOST) and len(world.asked) == asked, "not for every connection"
    world.now += STALE_SECONDS + 100
    with pytest.raises(socket.gaierror) as caught:
        await world.lookup(HOST)
    assert caught.value.errno == socket.EAI_AGAIN
    world.now += RETRY_SECONDS
    world.answers = {A: (("192.0.2.2",), 60.0), AAAA: ((), 60.0)}
    assert await world.lookup(HOST) == ("192.0.2.2",)


@story
async def test_nobody_leads_the_agent_to_its_own_loopback(world: World) -> None:
    world.answers = {A: (("127.0.0.1", "192.0.2.1", "0.0.0.0"), 60.0), AAAA: (("::1", "fe80::1", "ff02::1"), 60.0)}
    assert await world.lookup(HOST) == ("192.0.2.1",)
    world.answers[A] = (("127.0.0.53",), 60.0)
    with pytest.raises(socket.gaierror, match=r"127\.0\.0\.53"):
        await world.lookup("evil.example.com")


@story
async def test_lookups_at_the_same_time_are_bounded(world: World) -> None:
    world.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.lookup(f"{n}.example.com")) for n in range(lookup.MAX_LOOKUPS)]
    while len(world.asked) < 2 * lookup.MAX_LOOKUPS:
        await asyncio.sleep(0)
    with pytest.raises(socket.gaierror, match="already"):
        await world.lookup("one.more.example.com")
    world.gate.set()
    await asyncio.gather(*waiting)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, MAX_NAMES + 50), st.floats(-1e9, 1e9), st.sampled_from("fmx")), max_size=60))
def test_what_is_remembered_is_bounded_in_number_and_time(steps: list[tuple[int, float, str]]) -> None:
    names, now = RememberedNames(), 0.0
    for number in range(MAX_NAMES):
        names.found(f"x{number}", ("192.0.2.1",), 60, now)
    for number, ttl, what in steps:
        now += 1.0
        name = f"n{number}"
        if what == "f":
            kept = names.found(name, ("192.0.2.1",) * 100, ttl, now)
            assert len(kept.addresses) <= remembered.MAX_ADDRESSES
        else:
            kept = names.missing(name, "why", now) if what == "m" else names.failed(name, "why", now)
        assert now < kept.until <= now + LONGEST_SECONDS and names.get(name, now) == kept
        assert len(names) <= MAX_NAMES


@pytest.mark.parametrize("ip", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1"])
def test_addresses_of_other_hosts(ip: str) -> None:
    assert is_outside(ip)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "169.254.1.1", "fe80::1", "ff02::1"])
def test_addresses_that_are_not(ip: str) -> None:
    assert not is_outside(ip)
