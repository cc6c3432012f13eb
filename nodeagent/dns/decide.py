"""What becomes of a DNS message: a pure decision over the node's state.

The names below the mesh's domain are the mesh's own, and every question about them is answered here: a question about
them that left the node would tell others what the mesh is made of. Names outside it that the mesh gives a virtual
address (external services) are answered for addresses only, and for the records that would carry addresses past it
(SVCB, HTTPS). All else is forwarded as it is; but nothing for workloads that may reach only what the registry names: a
question is a message to whoever answers for the name, and to any address that a program calls a resolver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import dns.rdatatype

from control.wire.discovery import Service
from nodeagent.dns import messages
from nodeagent.dns.messages import NotDnsError, Question
from nodeagent.state.view import NodeState

_BYPASSES = (dns.rdatatype.SVCB, dns.rdatatype.HTTPS)
CONFINED = "EgressPolicy REGISTRY_ONLY: the registry does not name it"


@dataclass(frozen=True, slots=True)
class Answer:
    """Send this back; ``outcome`` is the label of the metric."""

    message: bytes
    outcome: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Hand the message to the resolver that the application chose, and its answer back, both as they are."""


@dataclass(frozen=True, slots=True)
class Discard:
    """It is not a query; nobody is answered (an answer would only make garbage travel)."""

    why: str


Verdict = Answer | Forward | Discard


def decide(state: NodeState, message: bytes, *, udp: bool, confined: bool = False) -> Verdict:
    """Over one message of an enrolled workload; ``confined``: it may reach only what the registry names."""
    try:
        question = messages.question_of(message)
    except NotDnsError as error:
        return Discard(str(error))
    verdict = _unconfined(state, message, question, udp)
    if not confined or not isinstance(verdict, Forward):
        return verdict
    if question is not None and question.internet and state.by_hostname(question.name) is not None:
        return Answer(messages.answer(message, question, (), question.name, udp), "no-data")
    return Answer(messages.prohibited(message, CONFINED, udp), "egress-refused")


def _unconfined(state: NodeState, message: bytes, question: Question | None, udp: bool) -> Verdict:
    if question is None or not question.internet:
        return Forward()
    domain = state.settings.domain if state.settings is not None else None
    if domain is not None and _below(question.name, domain):
        return _own(state, message, question, domain, udp)
    service = state.by_hostname(question.name)
    if service is None:
        return Forward()
    if question.kind in (dns.rdatatype.A, dns.rdatatype.AAAA) or question.kind in _BYPASSES:
        return _addresses(message, question, service, question.name, udp)
    return Forward()


def _below(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


def _own(state: NodeState, message: bytes, question: Question, domain: str, udp: bool) -> Verdict:
    service = state.by_hostname(question.name)
    if service is not None:
        return _addresses(message, question, service, domain, udp)
    located = _located(state, question.name)
    if located is not None:
        records = [(int(dns.rdatatype.SRV), located)] if question.kind in (dns.rdatatype.SRV, dns.rdatatype.ANY) else []
        return Answer(messages.answer(message, question, records, domain, udp), "srv" if records else "no-data")
    if question.name.count(".") <= domain.count(".") + 1:  # the domain, a namespace: names that have names below them
        return Answer(messages.answer(message, question, (), domain, udp), "no-data")
    return Answer(messages.no_such_name(message, question, domain, udp), "no-such-name")


def _addresses(message: bytes, question: Question, service: Service, zone: str, udp: bool) -> Verdict:
    records = [record for record in _records(service) if question.kind in (record[0], dns.rdatatype.ANY)]
    return Answer(messages.answer(message, question, records, zone, udp), "address" if records else "no-data")


def _records(service: Service) -> Iterator[tuple[int, str]]:
    for address in service.addresses:
        yield int(dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A), address


def _located(state: NodeState, name: str) -> str | None:
    """The SRV record of ``_<port name>._tcp.<service>`` (RFC 2782), in text."""
    labels = name.split(".", 2)
    if len(labels) != 3 or not labels[0].startswith("_") or labels[1] != "_tcp":
        return None
    service = state.by_hostname(labels[2])
    port = next((p for p in service.ports if p.name == labels[0][1:]), None) if service is not None else None
    return f"0 0 {port.port} {labels[2]}." if port is not None else None
