"""A DNS server with addresses for the stories: `zone.py ADDRESS FILE` answers A and AAAA (UDP) from the JSON in FILE,
{name: {"A": [...], "AAAA": [...], "ttl": 1}}, which it reads at each question; null: no answer at all; other names do
not exist. Prints each question.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


def answer(message: bytes, zone: dict[str, dict[str, list[str]] | None]) -> bytes | None:
    query = dns.message.from_wire(message)
    response = dns.message.make_response(query, recursion_available=True)
    question = query.question[0]
    name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
    print(f"{kind} {name}", flush=True)
    if name not in zone:
        response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()
    records = zone[name]
    if records is None:
        return None
    ttl = int(records.get("ttl", 1))  # type: ignore[call-overload]
    if records.get(kind):
        response.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *records[kind]))
    return response.to_wire()


def main() -> None:
    where, path = sys.argv[1], Path(sys.argv[2])
    server = socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((where, 53))
    print("ready", flush=True)
    while True:
        message, source = server.recvfrom(65535)
        response = answer(message, json.loads(path.read_text()))
        if response is not None:
            server.sendto(response, source)


if __name__ == "__main__":
    main()
