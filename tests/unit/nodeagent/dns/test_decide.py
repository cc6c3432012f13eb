"""What becomes of a DNS message, over a small mesh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.update
import pytest

from control.wire.discovery import MESH_UID, MeshSettings
from nodeagent.dns.decide import Answer, Discard, Forward, decide
from nodeagent.dns.messages import PLAIN_UDP_BYTES, failure
from nodeagent.state.view import NodeState
from tests.support.objects import delta, service, snapshot

OUTSIDE = replace(service("pay"), uid="shop/pay", hostname="api.example.com", addresses=("240.240.0.99", "fd6d::99"))
WEB = replace(service("web"), addresses=("240.240.0.10", "fd6d::10"))


@pytest.fixture
def state() -> NodeState:
    state = NodeState()
    settings = MeshSettings(uid=MESH_UID, domain="mesh.internal")
    state.apply(snapshot(WEB, OUTSIDE, settings))
    return state


def ask(state: NodeState, name: str, kind: str = "A", udp: bool = True, **options: Any) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)
    verdict = decide(state, query.to_wire(), udp=udp)
    assert isinstance(verdict, Answer), verdict
    answer = dns.message.from_wire(verdict.message)
    assert answer.id == query.id and answer.question == query.question
    assert answer.flags & dns.flags.QR and answer.flags & dns.flags.RA
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    return sorted(item.to_text() for rrset in answer.answer for item in rrset)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("A", ["240.240.0.10"]), ("AAAA", ["fd6d::10"]), ("ANY", ["240.240.0.10", "fd6d::10"]), ("MX", []), ("HTTPS", [])],
)
def test_a_service_has_its_virtual_addresses(state: NodeState, kind: str, expected: list[str]) -> None:
    answer = ask(state, "web.shop.mesh.internal", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert texts(answer) == expected
    assert bool(answer.authority) == (not expected), "a negative answer says for how long"
    assert answer.flags & dns.flags.AA


def test_names_are_found_in_any_case_and_shown_as_they_were_asked(state: NodeState) -> None:
    answer = ask(state, "Web.SHOP.mesh.internal")
    assert texts(answer) == ["240.240.0.10"]
    assert answer.answer[0].name.to_text() == "Web.SHOP.mesh.internal."


@pytest.mark.parametrize("name", ["nobody.shop.mesh.internal", "a.web.shop.mesh.internal"])
def test_a_name_of_the_mesh_that_is_not_there_does_not_leave_the_node(state: NodeState, name: str) -> None:
    answer = ask(state, name)
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.authority[0].rdtype == dns.rdatatype.SOA


@pytest.mark.parametrize("name", ["mesh.internal", "shop.mesh.internal", "nothing.mesh.internal"])
def test_names_above_services_exist_without_records(state: NodeState, name: str) -> None:
    """An NXDOMAIN for them would deny what is below (RFC 8020)."""
    answer = ask(state, name)
    assert (answer.rcode(), texts(answer)) == (dns.rcode.NOERROR, [])


def test_srv_leads_to_the_port(state: NodeState) -> None:
    port = WEB.ports[0]
    answer = ask(state, f"_{port.name}._tcp.web.shop.mesh.internal", "SRV")
    assert texts(answer) == [f"0 0 {port.port} web.shop.mesh.internal."]
    assert ask(state, "_other._tcp.web.shop.mesh.internal", "SRV").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(("kind", "expected"), [("A", ["240.240.0.99"]), ("AAAA", ["fd6d::99"]), ("HTTPS", [])])
def test_an_outside_name_with_a_virtual_address(state: NodeState, kind: str, expected: list[str]) -> None:
    assert texts(ask(state, "api.example.com", kind)) == expected


@pytest.mark.parametrize("kind", ["MX", "TXT", "SRV", "NS", "CAA", "DNSKEY"])
def test_other_records_of_an_outside_name_are_its_owners(state: NodeState, kind: str) -> None:
    assert decide(state, dns.message.make_query("api.example.com", kind).to_wire(), udp=True) == Forward()


@pytest.mark.parametrize(
    "name", ["example.com", "notmesh.internal", "xmesh.internal", "mesh.internal.example.com", "."]
)
@pytest.mark.parametrize("kind", ["A", "AAAA", "SRV", "PTR", "ANY"])
def test_everything_else_is_forwarded(state: NodeState, name: str, kind: str) -> None:
    assert decide(state, dns.message.make_query(name, kind).to_wire(), udp=True) == Forward()


def test_other_operations_and_classes_are_forwarded_even_for_our_names(state: NodeState) -> None:
    update = dns.update.UpdateMessage("mesh.internal")
    update.add("web.shop", 60, "A", "192.0.2.1")
    notify = dns.message.make_query("mesh.internal", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    chaos = dns.message.make_query("web.shop.mesh.internal", "TXT", "CH")
    several = dns.message.make_query("web.shop.mesh.internal", "A")
    several.question.append(several.question[0])
    for message in (update, notify, chaos, several):
        assert decide(state, message.to_wire(), udp=True) == Forward()


@pytest.mark.parametrize("garbage", [b"", b"x", b"\x00" * 11, b"\x00\x01\x80\x00" + b"\x00" * 8])
def test_what_is_no_query_is_discarded(state: NodeState, garbage: bytes) -> None:
    assert isinstance(decide(state, garbage, udp=True), Discard)


@pytest.mark.parametrize("tail", [b"", b"\xff" * 5, b"\x40abc", b"\xc0\x0c" + bytes(4)])
def test_a_query_that_cannot_be_read_is_for_whom_it_was_meant(state: NodeState, tail: bytes) -> None:
    assert decide(state, b"\x00\x01\x01\x00\x00\x01" + bytes(6) + tail, udp=True) == Forward()


def test_an_answer_keeps_to_the_size_that_the_client_takes(state: NodeState) -> None:
    many = replace(WEB, addresses=tuple(f"240.240.1.{n}" for n in range(1, 200)))
    state.apply(delta(many))
    small = ask(state, "web.shop.mesh.internal")
    assert small.flags & dns.flags.TC and len(small.to_wire()) <= PLAIN_UDP_BYTES
    assert len(texts(ask(state, "web.shop.mesh.internal", use_edns=0, payload=4096))) == 199
    assert len(texts(ask(state, "web.shop.mesh.internal", udp=False))) == 199


def test_edns_is_answered_with_edns(state: NodeState) -> None:
    assert ask(state, "web.shop.mesh.internal", use_edns=0).edns == 0
    assert ask(state, "web.shop.mesh.internal").edns == -1


@pytest.mark.parametrize("name", ["www.example.com", "8.8.8.8.in-addr.arpa", "com", "secret.exfil.example.net"])
@pytest.mark.parametrize("options", [{}, {"use_edns": 0}])
def test_a_confined_workload_asks_nobody_about_names_that_are_not_registered(
    state: NodeState, name: str, options: dict[str, Any]
) -> None:
    query = dns.message.make_query(name, "TXT", **options)
    verdict = decide(state, query.to_wire(), udp=True, confined=True)
    assert isinstance(verdict, Answer) and verdict.outcome == "egress-refused"
    answer = dns.message.from_wire(verdict.message)
    assert answer.rcode() == dns.rcode.NXDOMAIN and query.is_response(answer)
    assert not answer.authority, "nobody is to remember it"
    told = [option.to_text() for option in answer.options]
    assert bool(told) == bool(options) and all("18" in text and "REGISTRY_ONLY" in text for text in told)


@pytest.mark.parametrize("name", ["web.shop.mesh.internal", "api.example.com"])
def test_a_confined_workload_finds_what_is_registered(state: NodeState, name: str) -> None:
    for kind in ("A", "AAAA"):
        query = dns.message.make_query(name, kind).to_wire()
        assert decide(state, query, udp=True, confined=True) == decide(state, query, udp=True)
    other = decide(state, dns.message.make_query("api.example.com", "MX").to_wire(), udp=True, confined=True)
    assert isinstance(other, Answer) and dns.message.from_wire(other.message).rcode() == dns.rcode.NOERROR


def test_nothing_of_a_confined_workload_is_forwarded(state: NodeState) -> None:
    """Whatever it sends to port 53, of which the resolver may be anybody."""
    update = dns.update.UpdateMessage("example.com")
    update.add("x", 300, "A", "192.0.2.1")
    chaos = dns.message.make_query("version.bind", "TXT", "CH")
    head = bytes.fromhex("abcd01000001000000000000")
    for message in (update.to_wire(), chaos.to_wire(), head + b"\xff" * 40, head):
        verdict = decide(state, message, udp=False, confined=True)
        assert isinstance(verdict, Answer) and verdict.message[:2] == message[:2] and verdict.message[3] & 15 in (3, 5)


def test_without_settings_nothing_is_taken_for_the_meshs(state: NodeState) -> None:
    assert decide(NodeState(), dns.message.make_query("web.shop.mesh.internal", "A").to_wire(), udp=True) == Forward()


def test_a_failure_is_an_answer_to_its_question(state: NodeState) -> None:
    query = dns.message.make_query("example.com", "A", use_edns=0)
    answer = dns.message.from_wire(failure(query.to_wire()))
    assert query.is_response(answer)
    assert answer.rcode() == dns.rcode.SERVFAIL
