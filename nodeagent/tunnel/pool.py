"""Tunnels for reuse, by who asks, whom they must reach, and with which certificates (``generation``).

Never by address alone: an address that is used again is another workload. When anything of that is new, new flows get
new tunnels and the old ones drain. A flow that finds no tunnel waits for one, and its dial and handshake hold up
nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from OpenSSL import SSL

from control.wire.address import SocketAddress
from control.wire.governed import CONNECT_TIMEOUT
from nodeagent.http2.errors import LocalError
from nodeagent.http2.hpack.field import Field
from nodeagent.http2.limits import CLIENT_STREAMS
from nodeagent.http2.stream import Stream
from nodeagent.http2.table import Role
from nodeagent.http2.windows import WindowBudget
from nodeagent.identity.store import Certificates
from nodeagent.net.dialling import connect_reason, dial
from nodeagent.net.tasks import Tasks
from nodeagent.reasons import Reason
from nodeagent.tunnel.end import ReadBuffers, TunnelEnd
from nodeagent.tunnel.tls import TlsSession

MAX_TUNNELS: Final = 4096
MAX_WAITING: Final = 8192
"""Flows that may wait for tunnels at one time; further ones are refused as OVERLOADED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelTarget:
    """Where a tunnel leads, and who must answer there."""

    identity: str
    """The source: as whom to open it."""
    uid: str
    """The destination workload."""
    expected: str
    """The SPIFFE ID that the server must show."""
    address: SocketAddress
    sni: str
    trust_domain: str


Ready = Callable[["TunnelClient"], None]
Failed = Callable[[Reason, str], None]


class TunnelClient(TunnelEnd):
    """The side that opens streams."""

    def __init__(self, pool: Pool, target: TunnelTarget, generation: int) -> None:
        super().__init__(pool.tasks.loop, Role.CLIENT, target.trust_domain, pool.budget, pool.buffers)
        self.target = target
        self.generation = generation
        self._pool = pool

    def make_tls(self) -> TlsSession:
        """As the source workload, asking for the destination workload by name."""
        context = self._pool.certificates.client_context(self.target.identity)
        connection = SSL.Connection(context, None)
        connection.set_tlsext_host_name(self.target.sni.encode())
        return TlsSession(connection, server_side=False, buffers=self.buffers.tls)

    def authenticated(self) -> None:
        """The server proved who it is: it must be exactly the one that the endpoint's identity names."""
        found = str(self.peer.spiffe_id) if self.peer is not None else ""
        if found != self.target.expected:
            self.fail(Reason.IDENTITY_MISMATCH, f"{self.target.address} is {found}, expected {self.target.expected}")
            return
        self._pool.tunnel_ready(self)

    @property
    def usable(self) -> bool:
        """Whether a stream can be opened on it now."""
        return self.peer is not None and not self.closed and self.connection.can_open

    def stream_opened(self, stream: Stream, fields: list[Field], *, ended: bool) -> None:
        """A server opens no streams."""
        raise LocalError("the protocol lets no server open a stream")

    def stream_closed(self, stream: Stream) -> None:
        """There is room for another."""
        super().stream_closed(stream)
        self._pool.tunnel_has_room(self)

    def lost(self) -> None:
        """Out of the pool."""
        self._pool.tunnel_lost(self)


@dataclass(slots=True)
class _PoolEntry:
    tunnels: list[TunnelClient] = field(default_factory=list)
    waiting: deque[tuple[Ready, Failed]] = field(default_factory=deque)
    seconds: float = CONNECT_TIMEOUT
    """In which the next dial must be done: what the last flow that waits allows."""


class Pool:
    """The client tunnels of one worker."""

    def __init__(self, tasks: Tasks, certificates: Certificates, budget: WindowBudget, buffers: ReadBuffers) -> None:
        self.tasks = tasks
        self.certificates = certificates
        self.budget = budget
        self.buffers = buffers
        self._entries: dict[tuple[TunnelTarget, int], _PoolEntry] = {}
        self._tunnels = 0
        self._waiting = 0

    def __iter__(self) -> Iterator[TunnelClient]:
        return iter([tunnel for entry in self._entries.values() for tunnel in entry.tunnels])

    def __len__(self) -> int:
        return self._tunnels

    def acquire(self, target: TunnelTarget, ready: Ready, failed: Failed, seconds: float = CONNECT_TIMEOUT) -> None:
        """Call ``ready`` with a tunnel on which a stream can be opened, now if there is one; or ``failed``, once.
        A tunnel that has to be dialled first is given so many seconds.
        """
        generation = self.certificates.generation(target.identity)
        if not generation:
            failed(Reason.NO_IDENTITY, f"no valid SVID or trust bundle for {target.identity}")
            return
        key = (target, generation)
        entry = self._entries.get(key)
        for tunnel in entry.tunnels if entry is not None else ():
            if tunnel.usable:
                ready(tunnel)
                return
        if self._waiting >= MAX_WAITING:
            failed(Reason.OVERLOADED, f"{MAX_WAITING} connections wait for tunnels already")
            return
        if entry is None:
            entry = self._entries[key] = _PoolEntry()
        entry.seconds = seconds
        entry.waiting.append((ready, failed))
        self._waiting += 1
        self._open_enough(entry, target, generation)

    def _open_enough(self, entry: _PoolEntry, target: TunnelTarget, generation: int) -> None:
        """Open another tunnel if those that connect cannot take all flows that wait."""
        connecting = sum(1 for tunnel in entry.tunnels if tunnel.peer is None)
        if len(entry.waiting) > connecting * CLIENT_STREAMS:
            self._open(entry, target, generation)

    def _open(self, entry: _PoolEntry, target: TunnelTarget, generation: int) -> None:
        if self._tunnels >= MAX_TUNNELS:
            if not entry.tunnels:
                del self._entries[target, generation]
            self._fail_waiting(entry, Reason.OVERLOADED, f"this worker has {MAX_TUNNELS} tunnels already")
            return
        tunnel = TunnelClient(self, target, generation)
        entry.tunnels.append(tunnel)
        self._tunnels += 1
        self.tasks.spawn(self._dial(tunnel, entry.seconds), f"dial tunnel {target.address}")

    async def _dial(self, tunnel: TunnelClient, seconds: float) -> None:
        try:
            await dial(self.tasks.loop, lambda: tunnel, tunnel.target.address, seconds)
        except OSError as error:  # TimeoutError is one
            tunnel.fail(connect_reason(error), f"tunnel to {tunnel.target.address}: {error or 'no answer'}")

    def tunnel_ready(self, tunnel: TunnelClient) -> None:
        """A tunnel's handshake is done: serve those who wait for it, unless its certificates were replaced."""
        if tunnel.generation != self.certificates.generation(tunnel.target.identity):
            tunnel.fail(Reason.OK, "its certificates were replaced during the handshake")
            return
        self.tunnel_has_room(tunnel)
        entry = self._entries.get((tunnel.target, tunnel.generation))
        if entry is not None and entry.waiting:
            self._open_enough(entry, tunnel.target, tunnel.generation)

    def tunnel_has_room(self, tunnel: TunnelClient) -> None:
        """Serve flows that wait, as far as the tunnel goes."""
        entry = self._entries.get((tunnel.target, tunnel.generation))
        while entry is not None and entry.waiting and tunnel.usable:
            ready, _ = entry.waiting.popleft()
            self._waiting -= 1
            ready(tunnel)

    def tunnel_lost(self, tunnel: TunnelClient) -> None:
        """A tunnel is gone. If it was the last that others waited for, they fail with its reason."""
        key = (tunnel.target, tunnel.generation)
        entry = self._entries.get(key)
        if entry is None or tunnel not in entry.tunnels:
            return
        entry.tunnels.remove(tunnel)
        self._tunnels -= 1
        if not entry.tunnels:
            del self._entries[key]
        if entry.waiting and not any(t.peer is None or t.usable for t in entry.tunnels):
            reason, detail = tunnel.failure or (Reason.TUNNEL_LOST, "")
            if reason is Reason.OK:  # it was drained, not broken: another will do
                self._acquire_again(entry, tunnel.target)
            else:
                self._fail_waiting(entry, reason, detail)

    def _acquire_again(self, entry: _PoolEntry, target: TunnelTarget) -> None:
        waiting, entry.waiting = entry.waiting, deque()
        self._waiting -= len(waiting)
        for ready, failed in waiting:
            self.acquire(target, ready, failed, entry.seconds)

    def _fail_waiting(self, entry: _PoolEntry, reason: Reason, detail: str) -> None:
        while entry.waiting:
            _, failed = entry.waiting.popleft()
            self._waiting -= 1
            failed(reason, detail)

    def refresh(self) -> None:
        """SVIDs or bundles changed: tunnels made with former ones take no more streams."""
        for tunnel in self:
            if tunnel.generation != self.certificates.generation(tunnel.target.identity):
                tunnel.drain()

    def drop(self, uids: set[str]) -> None:
        """These workloads changed or are gone: their tunnels take no more streams."""
        for tunnel in self:
            if tunnel.target.uid in uids:
                tunnel.drain()

    def drain(self) -> None:
        """All tunnels close when their last stream is over."""
        for tunnel in self:
            tunnel.drain()

    def tick(self, now: float) -> None:
        """See ``TunnelEnd.tick``."""
        for tunnel in self:
            tunnel.tick(now)
