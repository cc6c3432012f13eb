"""The evaluator against a naive one, written straight from Istio's reference, that shares no code with it."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from control.wire.discovery import Action, AuthorizationPolicy, OperationMatch, PolicyRule, SourceMatch
from control.wire.ids import SpiffeId
from nodeagent.policy.compile import PolicyCache
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Permit, evaluate
from nodeagent.policy.explain import explain
from nodeagent.reasons import Reason
from tests.support.objects import policy

PRINCIPALS = ("mesh/ns/a/sa/x", "mesh/ns/a/*", "*/sa/x", "*", "mesh/ns/b/sa/y", "spiffe://mesh/ns/a/sa/x", "*b/sa/y")
NAMESPACES = ("a", "b", "a*", "*b", "*", "ab")
BLOCKS = ("10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "::/0", "fd00::/8", "fd00::1", "::ffff:10.0.0.0/120", "10.0.0.3/31")
BAD_BLOCKS = ("10.0.0.0/40", "x")
IPS = ("10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1", "2001:db8::1")
PORTS = (80, 443)


def _some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2).map(tuple)


_ports = st.lists(st.sampled_from(PORTS), max_size=2).map(tuple)
sources = st.builds(
    SourceMatch,
    principals=_some(PRINCIPALS), not_principals=_some(PRINCIPALS),
    namespaces=_some(NAMESPACES), not_namespaces=_some(NAMESPACES),
    ip_blocks=_some(BLOCKS), not_ip_blocks=_some(BLOCKS),
)  # fmt: skip
operations = st.builds(OperationMatch, ports=_ports, not_ports=_ports)
rules = st.builds(
    PolicyRule,
    sources=st.lists(sources, max_size=2).map(tuple),
    operations=st.lists(operations, max_size=2).map(tuple),
)
policies = st.lists(st.tuples(st.sampled_from(Action), st.lists(rules, max_size=2)), max_size=4).map(
    lambda items: tuple(policy(f"p{n}", action, *rules) for n, (action, rules) in enumerate(items))
)
identities = st.one_of(
    st.none(),
    st.builds(
        SpiffeId.workload, st.sampled_from(("mesh", "other")), st.sampled_from(("a", "b", "ab")), st.sampled_from("xy")
    ),
    st.just(SpiffeId.parse("spiffe://mesh/node/a")),
)
connections = st.builds(Connection, identities, st.sampled_from(IPS), st.just("10.9.9.9"), st.sampled_from(PORTS))


def naive_text(pattern: str, text: str | None) -> bool:
    if text is None:
        return False
    if pattern.endswith("*"):
        return text[: len(pattern) - 1] == pattern[:-1]
    if pattern.startswith("*"):
        return text[max(0, len(text) - len(pattern) + 1) :] == pattern[1:]
    return pattern == text


def naive_block(block: str, ip: str) -> bool:
    address, network = ipaddress.ip_address(ip), ipaddress.ip_network(block, strict=False)
    if network.version == 6 and network.network_address.ipv4_mapped is not None and address.version == 4:
        address = ipaddress.ip_address(f"::ffff:{address}")
    return address in network


def naive_source(source: SourceMatch, connection: Connection) -> bool:
    identity = connection.source_identity
    uri = None if identity is None else str(identity).replace("spiffe://", "", 1)
    namespace = uri.split("/")[2] if uri is not None and "/ns/" in uri else None
    holds = []
    for wanted, unwanted, hit in (
        (source.principals, source.not_principals, lambda e: naive_text(e.replace("spiffe://", ""), uri)),
        (source.namespaces, source.not_namespaces, lambda e: naive_text(e, namespace)),
        (source.ip_blocks, source.not_ip_blocks, lambda e: naive_block(e, connection.source_ip)),
    ):
        holds.append(not wanted or any(map(hit, wanted)))
        holds.append(not any(map(hit, unwanted)))
    return all(holds)


def naive_operation(operation: OperationMatch, port: int) -> bool:
    return (not operation.ports or port in operation.ports) and port not in operation.not_ports


def naive_matches(policy: AuthorizationPolicy, connection: Connection) -> bool:
    return any(
        (not rule.sources or any(naive_source(source, connection) for source in rule.sources))
        and (not rule.operations or any(naive_operation(o, connection.destination_port) for o in rule.operations))
        for rule in policy.rules
    )


def naive_allows(policies: tuple[AuthorizationPolicy, ...], connection: Connection) -> bool:
    if any(naive_matches(p, connection) for p in policies if p.action == "DENY"):
        return False
    allows = [p for p in policies if p.action == "ALLOW"]
    return not allows or any(naive_matches(p, connection) for p in allows)


@settings(max_examples=500, deadline=None)
@given(connections, policies)
def test_the_evaluator_agrees_with_the_oracle(
    connection: Connection, policies: tuple[AuthorizationPolicy, ...]
) -> None:
    verdict = evaluate(connection, policies, PolicyCache())
    assert isinstance(verdict, Permit) == naive_allows(policies, connection)
    steps = explain(connection, policies)
    assert steps[-1].place == "verdict" and steps[-1].matched == isinstance(verdict, Permit)


@settings(max_examples=100, deadline=None)
@given(connections, policies, st.sampled_from(BAD_BLOCKS), st.sampled_from(Action), st.integers(0, 4))
def test_a_broken_policy_never_lets_anybody_through(
    connection: Connection, policies: tuple[AuthorizationPolicy, ...], block: str, action: Action, place: int
) -> None:
    broken = policy("broken", action, PolicyRule(sources=(SourceMatch(ip_blocks=(block,)),)))
    verdict = evaluate(connection, (*policies[:place], broken, *policies[place:]), PolicyCache())
    assert not isinstance(verdict, Permit) and verdict.reason is Reason.POLICY_MISSING


@settings(max_examples=100, deadline=None)
@given(connections, policies)
def test_more_deny_never_allows_more(connection: Connection, policies: tuple[AuthorizationPolicy, ...]) -> None:
    before = evaluate(connection, policies, PolicyCache())
    denies = tuple(p for p in policies if p.action is Action.DENY)
    fewer = tuple(p for p in policies if p.action is Action.ALLOW)
    without = evaluate(connection, fewer, PolicyCache())
    if isinstance(before, Permit) and denies:
        assert isinstance(without, Permit)
