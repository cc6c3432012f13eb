"""Asks DNS questions the way a program would, inside a spot: `ask.py PROTOCOL FAMILY NAME TYPE RESOLVER…`.

PROTOCOL is connected, sendto (one socket for all resolvers) or tcp. Prints JSON: a list of {from, rcode, records,
truncated, size}. ASK_PAYLOAD is what the client says that it takes over UDP (EDNS), 4096 unless set; 0: nothing.
"""

from __future__ import annotations

import json
import os
import socket
import sys

import dns.flags
import dns.message
import dns.query
import dns.rcode

SECONDS = 8.0


def ask(protocol: str, family: str, message: bytes, resolvers: list[str]) -> list[tuple[str, bytes]]:
    """(who answered, what) for each resolver."""
    af = socket.AF_INET if family == "v4" else socket.AF_INET6
    if protocol == "tcp":
        return [(resolver, stream(af, message, resolver)) for resolver in resolvers]
    with socket.socket(af, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        if protocol == "connected":
            client.connect((resolvers[0], 53))
            client.send(message)
            return [(client.getpeername()[0], client.recv(65535))]
        for resolver in resolvers:
            client.sendto(message, (resolver, 53))
        answers = [client.recvfrom(65535) for _ in resolvers]
        return [(source[0], data) for data, source in answers]


def stream(af: socket.AddressFamily, message: bytes, resolver: str) -> bytes:
    with socket.socket(af, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        client.connect((resolver, 53))
        assert client.getpeername()[0] == resolver
        client.sendall(len(message).to_bytes(2, "big") + message)
        client.shutdown(socket.SHUT_WR)
        data = b""
        while chunk := client.recv(65535):
            data += chunk
    assert len(data) == 2 + int.from_bytes(data[:2], "big")
    return data[2:]


def main() -> None:
    protocol, family, name, kind, *resolvers = sys.argv[1:]
    payload = int(os.environ.get("ASK_PAYLOAD", "4096"))
    query = dns.message.make_query(name, kind, use_edns=0 if payload else None, payload=payload)
    told = []
    for source, data in ask(protocol, family, query.to_wire(), resolvers):
        answer = dns.message.from_wire(data)
        assert query.is_response(answer)
        records = sorted(item.to_text() for rrset in answer.answer for item in rrset)
        told.append({
            "from": source, "rcode": dns.rcode.to_text(answer.rcode()), "records": records,
            "truncated": bool(answer.flags & dns.flags.TC), "size": len(data),
        })  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
