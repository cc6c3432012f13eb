"""The process that stands in a spot: opens sockets where it is told and sends them back. Started by `spot`.

One request and one answer (JSON) a message on the SOCK_SEQPACKET descriptor given as argument; a socket travels with
its answer. Standard library only.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
from typing import Any

ETH_P_ALL = 3
CAPTURE_BUFFER_BYTES = 256 * 1024 * 1024
SO_RCVBUFFORCE = 33
IPPROTO_MPTCP = 262
TCP_FASTOPEN_CONNECT = 30


def _stream(address: str, *, multipath: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if multipath else 0)


def connect(address: str, port: int, timeout: float, how: str = "plain", first: str = "") -> socket.socket:
    """A blocking socket, connected in one of the ways that programs have; `first` is what is said along with it."""
    connection = _stream(address, multipath=how == "mptcp")
    try:
        connection.settimeout(timeout)
        if how == "fastopen-sendto":
            connection.settimeout(None)  # otherwise it is a non-blocking one, which is told to come back
            connection.sendto(first.encode(), socket.MSG_FASTOPEN, (address, port))
            first = ""
        elif how == "non-blocking":
            _connect_later(connection, address, port, timeout)
        else:
            if how == "fastopen-connect":
                connection.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            connection.connect((address, port))
        connection.settimeout(None)
        connection.sendall(first.encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_later(connection: socket.socket, address: str, port: int, timeout: float) -> None:
    """As event loops do: ask, wait until it is writable, look whether it worked."""
    connection.setblocking(False)
    told = connection.connect_ex((address, port))
    if told == errno.EINPROGRESS:
        wait = select.poll()
        wait.register(connection, select.POLLOUT)
        if not wait.poll(timeout * 1000):
            raise TimeoutError
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if told:
        raise OSError(told, "connect")


def listen(address: str, port: int, backlog: int, kind: str = "plain") -> socket.socket:
    """A listener; the IPv6 wildcard takes IPv4 too."""
    listener = _stream(address, multipath=kind == "mptcp")
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == "reuseport":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
