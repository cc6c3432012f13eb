"""What the listeners and streams of one worker share."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_NONBLOCK, AddressFamily, socket
from typing import Final, NamedTuple, Protocol

from control.wire.address import SocketAddress
from nodeagent.dns.decide import Verdict, decide
from nodeagent.limits.crowd import Crowd
from nodeagent.limits.excess import Excess
from nodeagent.state.view import NodeState

MAX_PENDING: Final = 1024
"""Questions of one worker that wait for a resolver. Of whoever has most, the oldest is answered SERVFAIL for the next;
who has used up its share is answered so itself."""
MAX_STREAMS: Final = 1024
"""TCP connections to resolvers; of whoever has most, the oldest is closed for the next."""
QUERY_SECONDS: Final = 10.0
"""How long a resolver may take: longer than clients wait (glibc: 5 s), so that they and not we give up."""

MakeSocket = Callable[[AddressFamily, int], socket]
"""(family, type and flags) -> a socket in the network namespace of who asks."""


class Waiting(Protocol):
    """A question on its way, or a connection of who asks."""

    def __hash__(self) -> int:
        """By identity."""

    def give_way(self) -> None:
        """End it: another's turn has come."""


class Asking(NamedTuple):
    """Who was asked, and by whom."""

    resolver: SocketAddress
    cgroup_id: int
    """The enrolled cgroup of who asks."""
    scope: int = 0
    """Interface of a link-local resolver; 0: none."""

    @property
    def address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The resolver, as sockets take it."""
        ip, port = self.resolver
        return (ip, port, 0, self.scope) if self.scope else (ip, port)


class QuestionClaim(Protocol):
    """How the kernel is told that a socket is the agent's own (``worker.listeners.NetnsClaim``)."""

    def mark(self, descriptor: int) -> None:
        """Before it is bound."""

    def meet_questions(self, at: SocketAddress, descriptor: int) -> None:
        """Once it is bound: datagrams to this address are its."""

    def holders(self, port: int) -> str:
        """Who has this UDP port, in words."""


@dataclass(slots=True)
class DnsContext:
    """One per worker."""

    loop: AbstractEventLoop
    state: NodeState
    confined: Callable[[int], bool]
    """Whether the processes of an enrolled cgroup may reach only what the registry names; asked at each message."""
    workload_of: Callable[[int], str] = str
    """The uid of the workload of an enrolled cgroup, or any other name for it: who a share belongs to."""
    excess: Excess = field(default_factory=Excess)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(protocol, outcome) -> messages."""
    pending: Crowd[Waiting] = field(init=False)
    streams: Crowd[Waiting] = field(init=False)

    def __post_init__(self) -> None:
        limits = self.excess.limits
        self.pending = Crowd(MAX_PENDING, limits.dns_questions_per_workload)
        self.streams = Crowd(MAX_STREAMS, limits.dns_connections_per_workload)

    def decide(self, message: bytes, protocol: str, cgroup_id: int) -> Verdict:
        """What becomes of a message of that cgroup."""
        return decide(self.state, message, udp=protocol == "udp", confined=self.confined(cgroup_id))

    def count(self, protocol: str, outcome: str) -> None:
        """One message ended so."""
        self.outcomes[protocol, outcome] += 1


def open_socket(make: MakeSocket, resolver: SocketAddress, kind: int) -> socket:
    """A non-blocking socket of the resolver's family."""
    return make(AF_INET6 if resolver.family == 6 else AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC)
