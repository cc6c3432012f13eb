"""What the listeners and streams of one worker share."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_NONBLOCK, AddressFamily, socket
from typing import Final, NamedTuple

from control.wire.address import SocketAddress
from nodeagent.dns.decide import Verdict, decide
from nodeagent.state.view import NodeState

MAX_PENDING: Final = 1024
"""Questions of one worker that wait for a resolver; the next are answered SERVFAIL."""
QUERY_SECONDS: Final = 10.0
"""How long a resolver may take: longer than clients wait (glibc: 5 s), so that they and not we give up."""

MakeSocket = Callable[[AddressFamily, int], socket]
"""(family, type and flags) -> a socket in the network namespace of who asks."""


class Asking(NamedTuple):
    """Who was asked, and by whom."""

    resolver: SocketAddress
    cgroup_id: int
    """The enrolled cgroup of who asks."""


@dataclass(slots=True)
class Desk:
    """One per worker."""

    loop: AbstractEventLoop
    state: NodeState
    confined: Callable[[int], bool]
    """Whether the processes of an enrolled cgroup may reach only what the registry names; asked at each message."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(protocol, outcome) -> messages."""
    pending: int = 0

    def decide(self, message: bytes, protocol: str, cgroup_id: int) -> Verdict:
        """What becomes of a message of that cgroup."""
        return decide(self.state, message, udp=protocol == "udp", confined=self.confined(cgroup_id))

    def count(self, protocol: str, outcome: str) -> None:
        """One message ended so."""
        self.outcomes[protocol, outcome] += 1


def open_socket(make: MakeSocket, resolver: SocketAddress, kind: int) -> socket:
    """A non-blocking socket of the resolver's family."""
    return make(AF_INET6 if resolver.family == 6 else AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC)
