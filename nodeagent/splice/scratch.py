"""Flows to try the splice on: real sockets of this process, marked as captured, and a small agent in a thread. The
self-test and the kernel tests use them.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from control.wire.address import SocketAddress, canonical_ip
from nodeagent.loader.pins import map_pin
from nodeagent.splice import abi
from nodeagent.splice.abi import SpliceAnswer
from nodeagent.splice.kernel import socket_cookie, splice_calls
from nodeagent.splice.splicer import Splicer, SpliceState

SO_COOKIE: Final = 57
SECONDS: Final = 2.0
"""How long a socket waits before a trial counts as hung."""
CHUNK: Final = 256 * 1024
LEG_BUFFER: Final = 128 * 1024
"""Of the agent's sockets, each way: what waits in the relay has to be read before a direction can be spliced again."""
NO_FLOW: Final = 0
"""A number that no flow has: the server of such a dial may become a leg."""
WARM_UP: Final = 6
"""Exchanges after which both directions have to be spliced."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_ORDERLY_CLOSE: Final = struct.pack("ii", 0, 0)


class ScratchAgent(threading.Thread):
    """Relays one flow between two sockets until both directions have ended, asking for the splice after each chunk."""

    def __init__(self, splicer: Splicer, flow: int | None, client: socket.socket, server: socket.socket) -> None:
        super().__init__(daemon=True, name="splice-agent")
        self.splicer = splicer
        self.flow = flow
        self.ends = (client, server)
        self.relayed = [0, 0]
        """Bytes that did not go the short way: client to server, server to client."""
        self.state = SpliceState.WAITING
        self._wake = socket.socketpair()
        for end in self.ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LEG_BUFFER)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LEG_BUFFER)
            end.settimeout(SECONDS * 10)

    def run(self) -> None:
        """Until the flow's end; any loss resets both."""
        client, server = self.ends
        open_ends = {client: (server, 0), server: (client, 1)}
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake[0], selectors.EVENT_READ)
            for end in self.ends:
                selector.register(end, selectors.EVENT_READ)
            try:
                while open_ends:
                    for key, _ in selector.select():
                        if key.fileobj is self._wake[0]:
                            raise ConnectionAbortedError
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        target, way = open_ends[source]
                        if not self._pass_on(source, target, way):
                            selector.unregister(source)
                            del open_ends[source]
                for end in self.ends:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY_CLOSE)
            except OSError:
                pass
        for end in self.ends:
            end.close()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: int) -> bool:
        data = source.recv(CHUNK)
        if not data:
            target.shutdown(socket.SHUT_WR)
            return False
        self.relayed[way] += len(data)
        target.sendall(data)
        self.enable()
        return True

    def enable(self) -> None:
        """Ask for the splice."""
        if self.flow is not None and self.state is SpliceState.WAITING:
            self.state = self.splicer.enable(self.flow)

    def cut(self) -> None:
        """Reset both ends."""
        self._wake[1].send(b"x")

    def close(self) -> None:
        """Stop, however the flow stands."""
        if self.is_alive():
            self.cut()
            self.join()
        for end in (*self._wake, *self.ends):
            end.close()


class ScratchFlow:
    """A flow from ``client`` to ``server`` through ``agent``."""

    def __init__(self, client: socket.socket, server: socket.socket, agent: ScratchAgent) -> None:
        self.client = client
        self.server = server
        self.agent = agent

    def warm_up(self) -> None:
        """Exchange small messages until both directions go the short way; TimeoutError if they do not."""
        assert self.agent.flow is not None
        for _ in range(WARM_UP):
            for sender, receiver in ((self.client, self.server), (self.server, self.client)):
                sender.sendall(b"?")
                if receiver.recv(1) != b"?":
                    raise ConnectionError("the flow ended while it warmed up")
        ways = self.agent.splicer.look(self.agent.flow)
        if ways is None or not all(way["spliced"] for way in ways):
            raise TimeoutError(f"not spliced after {WARM_UP} exchanges: {self.agent.state.value}, {ways}")


class ScratchLeg:
    """One connection between an application and the agent, who is this process as well."""

    def __init__(self, app: socket.socket, agent: socket.socket, splicer: Splicer, *, dialled: bool) -> None:
        self.app = app
        self.agent = agent
        self.splicer = splicer
        self.dialled = dialled
        self.number: int | None = None
        self.state = SpliceState.WAITING

    def offer(self) -> None:
        """The agent read a chunk."""
        if self.number is None and not self._prepare():
            return
        if self.number is not None and self.state is SpliceState.WAITING:
            self.state = self.splicer.enable(self.number)

    def _prepare(self) -> bool:
        ours, theirs = _name(self.agent.getsockname()), _name(self.agent.getpeername())
        number = socket_cookie((self.agent if self.dialled else self.app).fileno())
        ends = (ours, theirs) if self.dialled else (theirs, ours)
        if self.splicer.prepare_leg(number, ends, dialled=self.dialled) is SpliceAnswer.DONE:
            self.number = number
        return self.number is not None

    def close(self) -> None:
        """Its number means nothing any more."""
        if self.number is not None:
            self.splicer.forget(self.number)

    def warm_up(self) -> None:
        """Exchange small messages until both directions go past TCP; TimeoutError if they do not."""
        for _ in range(WARM_UP):
            self.app.sendall(b"?")
            if self.agent.recv(1) != b"?":
                raise ConnectionError("the leg ended while it warmed up")
            self.offer()
            self.agent.sendall(b"!")
            if self.app.recv(1) != b"!":
                raise ConnectionError("the leg ended while it warmed up")
        ways = self.splicer.look(self.number) if self.number is not None else None
        if ways is None or not all(way["spliced"] for way in ways):
            raise TimeoutError(f"not joined after {WARM_UP} exchanges: {self.state.value}, {ways}")


class Scratch:
    """Makes flows. ``address`` is what listeners listen on, ``family`` what the client's socket is."""

    def __init__(self, pin_dir: Path, splicer: Splicer) -> None:
        self._sys = splice_calls()
        self._sockets = self._sys.get(map_pin(pin_dir / abi.ROOM, abi.SOCKET_MAP))
        self.splicer = splicer

    def close(self) -> None:
        """Flows are closed by their own contexts."""
        os.close(self._sockets)

    def mark(self, client: socket.socket) -> None:
        """Have its connection taken for a captured one, before it connects."""
        ffi = self._sys.ffi
        value = ffi.from_buffer(abi.SOCKET.codec.pack(0, 0, 0, abi.SocketRole.TRIAL, b""))
        result = self._sys.lib.bpf_map_update_elem(self._sockets, ffi.new("int *", client.fileno()), value, 0)
        self._sys.check(result, "cannot mark a socket as captured")

    @contextmanager
    def flow(
        self, family: int = socket.AF_INET, address: str = "127.0.0.1", listening: socket.socket | None = None,
        protocol: int = 0,
    ) -> Iterator[ScratchFlow]:  # fmt: skip
        """An established flow whose ends are non-blocking (with a timeout of SECONDS)."""
        with ExitStack() as stack:
            server_listener = listening or stack.enter_context(_listen(address))
            agent_listener = stack.enter_context(_listen(address))
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, protocol))
            client.settimeout(SECONDS)
            self.mark(client)
            client.connect((_as(family, address), agent_listener.getsockname()[1]))
            accepted = stack.enter_context(agent_listener.accept()[0])
            cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
            number = self.splicer.prepare(cookie, _name(accepted.getpeername()), _name(accepted.getsockname()))
            dialled = stack.enter_context(socket.socket(_family(address), socket.SOCK_STREAM))
            if number is not None:
                self.splicer.dialling(number, dialled.fileno())
                stack.callback(self.splicer.forget, number)
            dialled.connect((address, server_listener.getsockname()[1]))
            server_listener.settimeout(SECONDS)
            server = stack.enter_context(server_listener.accept()[0])
            server.settimeout(SECONDS)
            agent = ScratchAgent(self.splicer, number, accepted, dialled)
            stack.callback(agent.close)
            agent.enable()
            agent.start()
            yield ScratchFlow(client, server, agent)

    @contextmanager
    def leg(
        self, family: int = socket.AF_INET, address: str = "127.0.0.1", *, dialled: bool = False
    ) -> Iterator[ScratchLeg]:
        """An established leg: of a client that the agent accepted, or of a server that the agent ``dialled``."""
        with ExitStack() as stack:
            listener = stack.enter_context(_listen(address))
            first = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            first.settimeout(SECONDS)
            if dialled:
                self.splicer.dialling(NO_FLOW, first.fileno())
            else:
                self.mark(first)
            first.connect((_as(family, address), listener.getsockname()[1]))
            second = stack.enter_context(listener.accept()[0])
            second.settimeout(SECONDS)
            app, agent = (second, first) if dialled else (first, second)
            agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            leg = ScratchLeg(app, agent, self.splicer, dialled=dialled)
            stack.callback(leg.close)
            yield leg


@contextmanager
def _listen(address: str) -> Iterator[socket.socket]:
    with socket.socket(_family(address), socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen(8)
        listener.settimeout(SECONDS)
        yield listener


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _as(family: int, address: str) -> str:
    return f"::ffff:{address}" if family == socket.AF_INET6 and ":" not in address else address


def _name(name: tuple[str, int]) -> SocketAddress:
    return SocketAddress(canonical_ip(name[0]), name[1])
