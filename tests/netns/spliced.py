"""Same-node connections whose both ends are the test's: non-blocking underneath, as sockets with a time-out are. Such
flows are spliced; how much went the short way is what the programs of the first node counted.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.netns.lab import Mesh, eventually
from tests.netns.servers import CHUNK, read_exactly
from tests.netns.shop import TARGET_PORT, Behind, Family, Shop
from tests.netns.spot import IO_SECONDS
from tests.support.pace import patient

ENDS_WITHIN = 5.0
"""Seconds from the end of an agent to the reset of its spliced flows, on a loaded machine."""

PASS_HOLDS = 32 << 10
"""``MESH_SPLICE_STEP``: so many bytes may be relayed before the programs are asked again."""

BULK_ROUNDS = 12
"""Transfers each way within which enough has to go the short way."""


class Pair:
    """A same-node connection, both ends; counts what ``exchange`` sent each way."""

    def __init__(self, shop: Shop, client: socket.socket, server: socket.socket) -> None:
        self.shop = shop
        self.client = client
        self.server = server
        self.sent = 0

    def exchange(self, word: bytes = b"word") -> None:
        """The same bytes there and back."""
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            sender.sendall(word)
            assert read_exactly(receiver, len(word)) == word
        self.sent += len(word)

    def short_cut(self, word: bytes = b"word") -> float:
        """How many bytes of an exchange went the short way."""
        before = redirected(self.shop)
        self.exchange(word)
        return redirected(self.shop) - before

    def splice(self) -> None:
        """Exchange until both directions are spliced."""
        eventually(self._exchange_spliced, what="both directions are spliced")

    def _exchange_spliced(self) -> bool:
        """Whether an exchange went the short way; if not, one more is sent, large enough to end what holds yet."""
        if self.short_cut() == 2 * len(b"word"):
            return True
        self.exchange(bytes(PASS_HOLDS))
        return False

    def bulk(self, data: bytes) -> None:
        """Both ways, again until as much went the short way: where two threads wait for one interpreter, the reader
        falls behind, and some of it is relayed.
        """
        before = redirected(self.shop)
        for _ in range(BULK_ROUNDS):
            for sender, receiver in ((self.client, self.server), (self.server, self.client)):
                assert transfer(sender, receiver, data) == data
            if redirected(self.shop) - before > len(data):
                return
        pytest.fail(f"of {2 * BULK_ROUNDS} transfers {redirected(self.shop) - before:.0f} bytes went the short way")

    @property
    def port(self) -> str:
        """How the access log's src.addr ends."""
        return f":{self.client.getsockname()[1]}"


@contextmanager
def pair(shop: Shop, family: Family = Family.V4, *, seconds: float | None = IO_SECONDS) -> Iterator[Pair]:
    """A new connection; ``seconds`` None: both ends block."""
    with shop.local.spot.listen(TARGET_PORT) as listener, shop.dial(shop.local, family) as client:
        server = listener.accept()[0]
        with server:
            for end in (client, server):
                end.settimeout(seconds)
            yield Pair(shop, client, server)


@contextmanager
def connected(shop: Shop, behind: Behind, family: Family, count: int, *, seconds: float | None) -> Iterator[list[Pair]]:
    """So many connections at once; nobody listens any more."""
    with ExitStack() as stack:
        pairs = []
        with behind.spot.listen(TARGET_PORT) as listener:
            for _ in range(count):
                client = stack.enter_context(shop.dial(behind, family))
                server = stack.enter_context(listener.accept()[0])
                for end in (client, server):
                    end.settimeout(seconds)
                pairs.append(Pair(shop, client, server))
        yield pairs


@contextmanager
def spliced(shop: Shop, family: Family = Family.V4) -> Iterator[Pair]:
    """... of which both directions are spliced."""
    with pair(shop, family) as flow:
        flow.splice()
        yield flow


def redirected(shop: Shop) -> float:
    """Bytes that went the short way on the first node since its agent started."""
    return metric(shop.mesh, "nodemesh_splice_total", event="bytes")


def metric(mesh: Mesh, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels, on the first node."""
    found = [
        sample.value
        for sample in mesh.a.metrics()
        if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
    ]
    return sum(found)


def assert_reset(end: socket.socket, within: float = ENDS_WITHIN) -> None:
    """A reset, in time, whatever could be read before it; not an end, not a hang."""
    end.settimeout(patient(within))
    with pytest.raises(ConnectionResetError):
        while end.recv(CHUNK):
            pass
        pytest.fail("the stream ended as if it were complete")


def transfer(source: socket.socket, target: socket.socket, data: bytes) -> bytes:
    """Send in a thread, read here."""
    sender = threading.Thread(target=source.sendall, args=(data,), daemon=True)
    sender.start()
    try:
        return read_exactly(target, len(data))
    finally:
        sender.join(IO_SECONDS)


class Stream:
    """Sends without end in one thread, reads in another, until each fails or ends. A context manager."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.flowing = threading.Event()
        self.sent_error: OSError | None = None
        self.read_error: OSError | None = None
        self.read = 0
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._read)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()
        self.target.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(4 * ENDS_WITHIN)  # a sender at full speed leaves the agent little of two processors
            assert not thread.is_alive(), "an end hangs"

    def _send(self) -> None:
        try:
            while True:
                self.source.sendall(bytes(CHUNK))
        except OSError as error:
            self.sent_error = error

    def _read(self) -> None:
        try:
            while chunk := self.target.recv(CHUNK):
                self.read += len(chunk)
                if self.read > 20 * CHUNK:
                    self.flowing.set()
        except OSError as error:
            self.read_error = error
