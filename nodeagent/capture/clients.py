"""For whom the agent connects to a workload: a worker tells the kernel before it connects, and the server's
``getpeername()`` and ``accept()`` answer with it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from socket import AF_INET6, inet_aton, inet_pton

from control.wire.address import SocketAddress
from nodeagent.loader.errors import BpfError
from nodeagent.loader.maps import Clients

_MAPPED = bytes(10) + b"\xff\xff"
_NOBODY = bytes(16)
_log = logging.getLogger("nodeagent.capture")


class ClientTable:
    """The real clients of the agent's own sockets. One thread; one system call a connection.

    The agent has to run below the cgroup that the programs are attached to: there, ``connect()`` takes the mark.
    """

    def __init__(self, pin_dir: Path) -> None:
        self._clients = Clients(pin_dir)

    def announce(self, descriptor: int, client: SocketAddress | None) -> None:
        """The agent's socket is going to connect to a workload for ``client`` (canonical; None: not known, the
        agent's own address is shown). Call it before ``connect()``. What the kernel does not take is logged.
        """
        packed, port = _NOBODY, 0
        if client is not None:
            ip, port = client
            packed = inet_pton(AF_INET6, ip) if ":" in ip else _MAPPED + inet_aton(ip)
        try:
            self._clients.tell(descriptor, packed, port)
        except BpfError:
            _log.exception("a server cannot be told of its client %s; it sees the agent's address", client)

    def go_out(self, descriptor: int) -> None:
        """The agent's socket is going to connect to a host outside the mesh: if that is this very node after all, it is
        met as plaintext, not as a health check. Call it before ``connect()``.
        """
        try:
            self._clients.go_out(descriptor)
        except BpfError:
            _log.exception("a connection to a host outside the mesh cannot be marked; it is met as any program's")

    def close(self) -> None:
        """Close the map."""
        self._clients.close()
