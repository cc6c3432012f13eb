"""The process that stands in a spot: opens sockets where it is told and sends them back. Started by `spot`.

One request and one answer (JSON) a message on the SOCK_SEQPACKET descriptor given as argument; a socket travels with
its answer. Standard library only.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

ETH_P_ALL = 3
CAPTURE_BUFFER_BYTES = 256 * 1024 * 1024
SO_RCVBUFFORCE = 33


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """A blocking socket, connected."""
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect((address, port))
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def listen(address: str, port: int, backlog: int) -> socket.socket:
    """A listener; the IPv6 wildcard takes IPv4 too."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def packets(interface: str) -> socket.socket:
    """A packet socket with room for bursts."""
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURE_BUFFER_BYTES)
    capture.bind((interface, ETH_P_ALL))
    return capture


ACTIONS = {"connect": connect, "listen": listen, "packets": packets}


def answer(channel: socket.socket, request: dict[str, Any]) -> None:
    """Do one thing and tell how it went."""
    try:
        made = ACTIONS[request.pop("do")](**request)
    except TimeoutError:
        channel.send(b'{"timeout": true}')
    except OSError as error:
        channel.send(json.dumps({"errno": error.errno}).encode())
    else:
        with made:
            socket.send_fds(channel, [b"{}"], [made.fileno()])


def main() -> None:
    """Serve until the test closes its end."""
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        while request := channel.recv(65536):
            answer(channel, json.loads(request))


if __name__ == "__main__":
    main()
