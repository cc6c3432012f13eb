"""Questions that wait for a resolver, and TCP connections to one: each workload has a share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import dns.message
import dns.rcode
import pytest

from control.wire.address import SocketAddress
from nodeagent.dns.io import desk as module
from nodeagent.dns.io.desk import Asking, DnsContext
from nodeagent.dns.io.service import DnsService
from nodeagent.dns.io.udp import DnsListener, bind
from nodeagent.limits.excess import Excess
from nodeagent.limits.settings import Limits
from nodeagent.state.view import NodeState
from tests.support.stories import eventually

QUESTION = dns.message.make_query("example.org.", "A").to_wire()


class Place:
    """A listener whose askers are of the workload that their socket says, and a resolver that says nothing."""

    def __init__(self, ip: str, limits: Limits) -> None:
        self.ip = ip
        self.family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.resolver = socket.socket(self.family, socket.SOCK_DGRAM)
        self.resolver.bind((ip, 0))
        self.resolver_address = SocketAddress(*self.resolver.getsockname()[:2])
        self.cgroups: dict[int, int] = {}
        self.excess = Excess(limits)
        self.desk = DnsContext(
            asyncio.get_running_loop(), NodeState(), lambda _: False, workload_of=lambda cgroup: f"shop/w{cgroup}@1",
            excess=self.excess,
        )  # fmt: skip
        self.clients: list[socket.socket] = []
        self.transport: Any = None

    async def open(self) -> None:
        handle = bind(socket.socket, SocketAddress(self.ip, 0))
        self.transport, _ = await self.desk.loop.create_datagram_endpoint(
            lambda: DnsListener(self.desk, self._whom, socket.socket), sock=handle
        )

    def _whom(self, source: SocketAddress) -> Asking:
        return Asking(self.resolver_address, self.cgroups[source.port])

    def ask(self, workload: int) -> socket.socket:
        client = socket.socket(self.family, socket.SOCK_DGRAM)
        client.bind((self.ip, 0))
        client.setblocking(False)
        self.cgroups[client.getsockname()[1]] = workload
        client.connect(self.transport.get_extra_info("sockname")[:2])
        client.send(QUESTION)
        self.clients.append(client)
        return client

    async def failed(self, client: socket.socket) -> bool:
        answer = dns.message.from_wire(await self.desk.loop.sock_recv(client, 4096))
        return answer.rcode() == dns.rcode.SERVFAIL


@asynccontextmanager
async def place(ip: str, **limits: int) -> AsyncIterator[Place]:
    opened = Place(ip, Limits(**limits))
    await opened.open()
    try:
        yield opened
    finally:
        for waiting in list(opened.desk.pending):
            waiting.give_way()
        opened.transport.close()
        for each in (*opened.clients, opened.resolver):
            each.close()
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_who_has_its_share_of_questions_is_refused_and_others_are_not(ip: str) -> None:
    async def story() -> None:
        async with place(ip, dns_questions_per_workload=3) as here:
            for _ in range(3):
                here.ask(1)
            await eventually(lambda: len(here.desk.pending) == 3)
            assert await here.failed(here.ask(1))
            here.ask(2)
            await eventually(lambda: len(here.desk.pending) == 4)
            assert here.excess.counts == {("dns_questions_per_workload", "shop/w1@1"): 1}
            assert here.desk.outcomes["udp", "overloaded"] == 1

    run(story())


def test_where_all_room_is_used_the_oldest_of_whoever_has_most_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 4)

    async def story() -> None:
        async with place("127.0.0.1") as here:
            first = here.ask(1)
            await eventually(lambda: len(here.desk.pending) == 1)
            for _ in range(3):
                here.ask(1)
            await eventually(lambda: len(here.desk.pending) == 4)
            here.ask(2)
            assert await here.failed(first)
            assert here.desk.pending.size("shop/w2@1") == 1 and len(here.desk.pending) == 4
            assert here.excess.counts == {("dns_questions_per_workload", "shop/w1@1"): 1}

    run(story())


def test_an_answer_gives_the_share_back() -> None:
    async def story() -> None:
        async with place("127.0.0.1", dns_questions_per_workload=1) as here:
            here.resolver.setblocking(False)
            for _ in range(3):
                client = here.ask(1)
                question, address = await here.desk.loop.sock_recvfrom(here.resolver, 4096)
                await here.desk.loop.sock_sendto(
                    here.resolver, dns.message.make_response(dns.message.from_wire(question)).to_wire(), address
                )
                assert not await here.failed(client)
            assert here.excess.counts == {}

    run(story())


def test_the_oldest_tcp_connection_of_a_workload_gives_way() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        excess = Excess(Limits(dns_connections_per_workload=2))
        desk = DnsContext(loop, NodeState(), lambda _: False, workload_of=lambda c: f"shop/w{c}@1", excess=excess)
        tasks = set()
        service = DnsService(
            desk, 0, lambda *_: None, lambda work, _: tasks.add(asyncio.ensure_future(work)), lambda _: None
        )
        ends = []
        for cgroup in (1, 1, 2, 1):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            service.take(transport, Asking(SocketAddress("127.0.0.1", 53), cgroup), socket.socket)
            ends.append(theirs)
        assert await loop.sock_recv(ends[0], 1) == b"", "the first of the workload that has three"
        assert len(desk.streams) == 3
        assert excess.counts == {("dns_connections_per_workload", "shop/w1@1"): 1}
        for end in ends:
            end.close()
        await eventually(lambda: not len(desk.streams))

    run(story())
