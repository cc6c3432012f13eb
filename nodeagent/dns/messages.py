"""DNS messages, as far as the agent looks into them. Pure; the codec is dnspython's.

Source: RFC 1035 (4.1: format; 4.2.2: two bytes of length before each message over TCP), RFC 6891 (EDNS: the size that a
client takes), RFC 2308 (negative answers carry the SOA), RFC 9460 (SVCB and HTTPS records),
RFC 8914 (why an answer is not what was hoped for).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

HEADER_BYTES: Final = 12
MAX_MESSAGE_BYTES: Final = 65535
PLAIN_UDP_BYTES: Final = 512
"""What a client takes that does not say (RFC 1035, 4.2.1)."""
TTL_SECONDS: Final = 30
"""Of answers. Virtual addresses are stable; short enough for a service that is made anew."""
NEGATIVE_TTL_SECONDS: Final = 5
"""A name that is missing now may be a service that is being made."""
_HEADER: Final = struct.Struct("!HHHHHH")
_RESPONSE_BIT: Final = 0x8000
_OPCODE_BITS: Final = 0x7800


class NotDnsError(ValueError):
    """The bytes are no DNS query that anybody could answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """The one question of an ordinary query."""

    name: str
    """Lower case, without the dot at the end; ASCII (other bytes escaped as ``\\\\ddd``)."""
    kind: int
    """The type of record (``dns.rdatatype``)."""
    internet: bool
    """Whether the class is IN."""


def question_of(message: bytes) -> Question | None:
    """What an ordinary query asks; None for any other operation (UPDATE, NOTIFY, several questions): not ours to read.

    NotDnsError if it is too short for DNS, or an answer: nobody should send one to a resolver.
    """
    if len(message) < HEADER_BYTES:
        raise NotDnsError(f"{len(message)} bytes are shorter than a DNS header")
    _, flags, questions, _, _, _ = _HEADER.unpack_from(message)
    if flags & _RESPONSE_BIT:
        raise NotDnsError("an answer, where only questions are expected")
    if flags & _OPCODE_BITS or questions != 1:
        return None
    try:
        name, length = dns.name.from_wire(message, HEADER_BYTES)
        kind, cls = struct.unpack_from("!HH", message, HEADER_BYTES + length)
    except (dns.exception.DNSException, struct.error):
        return None  # whoever the application asked may understand it
    return Question(name.to_text(omit_final_dot=True).lower(), kind, cls == dns.rdataclass.IN)


def identifier(message: bytes) -> bytes:
    """The two bytes by which an answer names its question."""
    return message[:2]


def answer(query: bytes, question: Question, records: Iterable[tuple[int, str]], zone: str, udp: bool) -> bytes:
    """An authoritative answer with these (type, text) records; without any: the name has none of that type."""
    return _respond(query, question, tuple(records), zone, dns.rcode.NOERROR, udp)


def no_such_name(query: bytes, question: Question, zone: str, udp: bool) -> bytes:
    """The name does not exist in the zone, which is the mesh's."""
    return _respond(query, question, (), zone, dns.rcode.NXDOMAIN, udp)


def prohibited(query: bytes, why: str, udp: bool) -> bytes:
    """NXDOMAIN for a name that the asking workload may not look up; with the reason (RFC 8914, Prohibited) for clients
    that speak EDNS. Other operations are REFUSED.

    Not REFUSED for names: C libraries would go on to the next resolver, wait, and call it a temporary failure.
    """
    if not _is_ordinary(query):
        return failure(query, dns.rcode.REFUSED)
    try:
        asked = dns.message.from_wire(query, ignore_trailing=True)
        response = dns.message.make_response(asked, recursion_available=True)
    except dns.exception.DNSException:
        return failure(query, dns.rcode.NXDOMAIN)
    response.set_rcode(dns.rcode.NXDOMAIN)
    if asked.edns >= 0:
        response.use_edns(options=[dns.edns.EDEOption(dns.edns.EDECode.PROHIBITED, why)])
    size = max(asked.payload, PLAIN_UDP_BYTES) if asked.edns >= 0 else PLAIN_UDP_BYTES
    return response.to_wire(max_size=size if udp else MAX_MESSAGE_BYTES, prefer_truncation=True)


def _is_ordinary(query: bytes) -> bool:
    _, flags, questions, _, _, _ = _HEADER.unpack_from(query)
    return not flags & _OPCODE_BITS and questions == 1


def failure(query: bytes, code: int = dns.rcode.SERVFAIL) -> bytes:
    """SERVFAIL: the agent cannot answer now. From the header alone, so that any query can be answered so."""
    number, flags, questions, _, _, _ = _HEADER.unpack_from(query)
    kept = flags & (dns.flags.RD | dns.flags.CD | _OPCODE_BITS)
    head = _HEADER.pack(number, kept | _RESPONSE_BIT | dns.flags.RA | code, 0, 0, 0, 0)
    if questions != 1:
        return head
    try:
        name, length = dns.name.from_wire(query, HEADER_BYTES)
    except dns.exception.DNSException:
        return head
    rest = query[HEADER_BYTES + length : HEADER_BYTES + length + 4]
    if len(rest) < 4:
        return head
    asked = (name.to_wire() or b"") + rest  # written out: what a pointer in it pointed to is not in the answer
    return _HEADER.pack(number, kept | _RESPONSE_BIT | dns.flags.RA | code, 1, 0, 0, 0) + asked


def _respond(
    query: bytes, question: Question, records: tuple[tuple[int, str], ...], zone: str, code: dns.rcode.Rcode, udp: bool
) -> bytes:
    try:
        asked = dns.message.from_wire(query, ignore_trailing=True)
        response = dns.message.make_response(asked, recursion_available=True)
    except dns.exception.DNSException:  # its question is readable, the rest of it is not
        return failure(query)
    response.flags |= dns.flags.AA
    response.set_rcode(code)
    owner = asked.question[0].name
    for kind in dict.fromkeys(kind for kind, _ in records):
        texts = [text for other, text in records if other == kind]
        rdtype = dns.rdatatype.RdataType.make(kind)
        response.answer.append(dns.rrset.from_text(owner, TTL_SECONDS, dns.rdataclass.IN, rdtype, *texts))
    if not records:
        response.authority.append(_start_of_authority(zone))
    size = max(asked.payload, PLAIN_UDP_BYTES) if asked.edns >= 0 else PLAIN_UDP_BYTES
    return response.to_wire(max_size=size if udp else MAX_MESSAGE_BYTES, prefer_truncation=True)


def _start_of_authority(zone: str) -> dns.rrset.RRset:
    text = f"ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 {NEGATIVE_TTL_SECONDS}"
    return dns.rrset.from_text(f"{zone}.", NEGATIVE_TTL_SECONDS, dns.rdataclass.IN, dns.rdatatype.SOA, text)
