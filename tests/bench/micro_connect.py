"""What a new cross-node connection costs both agents, in one process, with real sockets and TLS but without the
kernel's capture: `python -m tests.bench.micro_connect [connections] [--profile]`. A client and a server run in
processes of their own and are not counted.
"""

from __future__ import annotations

import asyncio
import cProfile
import multiprocessing
import pstats
import resource
import socket
import sys
from multiprocessing.connection import Connection

import uvloop

from control.wire.address import SocketAddress
from nodeagent.capture.origdst import CapturedFlow
from tests.support.relay import Mesh, RecordingLog

CONNECTIONS = 4000
AT_ONCE = 8


class Always:
    """Plays the kernel's flow table: whoever connects asked for the service on the other node."""

    def take(self, source: SocketAddress, _accepted: object, _cookie: int | None = None) -> CapturedFlow:
        """The same answer to everybody."""
        return CapturedFlow(SocketAddress(Mesh.VIP_FAR, 80), 1, 1, 1, 0)


class Nowhere(RecordingLog):
    """Access log off."""

    def write(self, record: object) -> None:
        """Nothing."""


def serve(channel: Connection) -> None:
    """Answer each connection once, then wait for its end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    channel.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        connection.recv(1024)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
        connection.close()


def load(port: int, connections: int, channel: Connection) -> None:
    """Open, ask, read to the end, close; AT_ONCE at a time."""
    for _ in range(connections // AT_ONCE):
        group = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE)]
        for each in group:
            each.sendall(b"GET / HTTP/1.0\r\nHost: web\r\nUser-Agent: bench\r\n\r\n")
        for each in group:
            while each.recv(4096):
                pass
            each.close()
    channel.send(None)


async def run(connections: int, profile: cProfile.Profile | None) -> float:
    """CPU microseconds a connection."""
    parent, child = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(child,), daemon=True)
    server.start()
    mesh = Mesh("127.0.0.1")
    await mesh.start(parent.recv())
    for node in (mesh.a, mesh.b):
        node.log.__class__ = Nowhere
    mesh.a.outbound._captured = Always()
    loop = asyncio.get_running_loop()
    for count in (AT_ONCE * 20, connections):  # the first is to warm up
        client = multiprocessing.Process(target=load, args=(mesh.a.outbound_port, count, child), daemon=True)
        client.start()
        done = asyncio.Event()
        before = resource.getrusage(resource.RUSAGE_SELF)
        if profile is not None and count == connections:
            profile.enable()
        loop.add_reader(parent.fileno(), done.set)
        await done.wait()
        loop.remove_reader(parent.fileno())
        if profile is not None:
            profile.disable()
        after = resource.getrusage(resource.RUSAGE_SELF)
        parent.recv()
        client.join()
    await mesh.stop()
    server.kill()
    server.join()
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    print(f"user {user / connections * 1e6:.0f} us, system {system / connections * 1e6:.0f} us")
    return (user + system) / connections * 1e6


def main(argv: list[str]) -> None:
    """Print the cost, or a profile."""
    profile = cProfile.Profile() if "--profile" in argv else None
    numbers = [int(word) for word in argv if word.isdigit()]
    cost = uvloop.run(run(numbers[0] if numbers else CONNECTIONS, profile))
    print(f"{cost:.0f} us of CPU a connection, both agents")
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main(sys.argv[1:])
