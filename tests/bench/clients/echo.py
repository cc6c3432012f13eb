"""A small echo server and its clients, standing alone (standard library only) so that they start fast.

echo.py serve PORT               echo every byte; any number of connections
echo.py rtt HOST PORT SECONDS    one connection, 100-byte messages one after the other; prints a JSON report
echo.py hold HOST PORT COUNT     open COUNT connections, one byte through each, print "ready", hold until stdin ends
"""

from __future__ import annotations

import json
import math
import selectors
import socket
import sys
import time

MESSAGE_OCTETS = 100
MAX_MESSAGES = 2_000_000
"""Bound of one rtt run, whatever the time asked for."""
TIMEOUT_S = 20.0
CHUNK = 65536


def serve(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port), backlog=4096)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
            elif isinstance(key.fileobj, socket.socket):
                _answer(selector, key.fileobj)


def _answer(selector: selectors.BaseSelector, connection: socket.socket) -> None:
    """An event loop's server: no client here has more than one small message under way, so a send never waits."""
    try:
        if data := connection.recv(CHUNK):
            connection.sendall(data)
            return
    except OSError:
        pass
    selector.unregister(connection)
    connection.close()


def _connect(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _exchange(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message)
    answer = connection.recv(CHUNK)
    while answer and len(answer) < len(message):
        more = connection.recv(CHUNK)
        if not more:
            break
        answer += more
    if answer != message:
        raise OSError(f"the echo differs: sent {len(message)} bytes, got {len(answer)}")


def rtt(host: str, port: int, seconds: float) -> dict[str, object]:
    times: list[int] = []
    with _connect(host, port) as connection:
        began = time.perf_counter_ns()
        deadline = began + int(seconds * 1e9)
        after = began
        while after < deadline and len(times) < MAX_MESSAGES:
            message = b"%0*d" % (MESSAGE_OCTETS, len(times))
            before = time.perf_counter_ns()
            _exchange(connection, message)
            after = time.perf_counter_ns()
            times.append(after - before)
    elapsed = after - began
    times.sort()
    at = {share: times[max(0, math.ceil(share / 100 * len(times)) - 1)] / 1000 for share in (50, 99)}
    return {"count": len(times), "seconds": elapsed / 1e9, "p50_us": at[50], "p99_us": at[99]}


def hold(host: str, port: int, count: int) -> None:
    connections = []
    for _ in range(count):
        connection = _connect(host, port)
        _exchange(connection, b"x")
        connections.append(connection)
    print("ready", flush=True)
    sys.stdin.read()


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["serve", port]:
                serve(int(port))
            case ["rtt", host, port, seconds]:
                print(json.dumps(rtt(host, int(port), float(seconds))))
            case ["hold", host, port, count]:
                hold(host, int(port), int(count))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except OSError as problem:
        print(json.dumps({"error": str(problem)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
