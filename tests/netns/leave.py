"""Tries to get out of the mesh, inside a spot: `leave.py WAY ADDRESS PORT` prints ok or the name of the error."""

from __future__ import annotations

import errno
import socket
import sys

IPPROTO_UDPLITE = 136
IPPROTO_MPTCP = 262
MSG_FASTOPEN = 0x20000000


def leave(way: str, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if way == "raw":
        socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP).close()
        return
    if way == "udplite":
        socket.socket(family, socket.SOCK_DGRAM, IPPROTO_UDPLITE).close()
        return
    udp = way.startswith("udp")
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(family, kind, IPPROTO_MPTCP if way == "mptcp" else 0) as client:
        if way in ("tcp", "mptcp"):
            client.settimeout(8)
            client.connect((address, port))
        elif way == "fastopen":
            client.sendto(b"x", MSG_FASTOPEN, (address, port))
        elif way == "udp-connect":
            client.connect((address, port))
            client.send(b"x")
        else:
            client.sendto(b"x", (address, port))


def main() -> None:
    way, address, port = sys.argv[1:]
    try:
        leave(way, address, int(port))
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0, repr(error)))
    else:
        print("ok")


if __name__ == "__main__":
    main()
