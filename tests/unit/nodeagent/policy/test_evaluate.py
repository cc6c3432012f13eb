"""Istio's L4 semantics, one rule of it a test."""

from __future__ import annotations

import pytest

from control.wire.discovery import Action, AuthorizationPolicy, OperationMatch, PolicyRule, SourceMatch
from control.wire.ids import SpiffeId
from nodeagent.policy.compile import PolicyCache
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Denial, Permit, evaluate
from nodeagent.reasons import Reason
from nodeagent.state.targets import MissingPolicy
from tests.support.objects import policy, rule

CLIENT = SpiffeId.parse("spiffe://mesh.internal/ns/shop/sa/client")
ALLOW, DENY = Action.ALLOW, Action.DENY


def connection(identity: SpiffeId | None = CLIENT, ip: str = "10.0.0.7", port: int = 8080) -> Connection:
    return Connection(identity, ip, "10.0.0.1", port)


def judge(*policies: AuthorizationPolicy, to: Connection | None = None) -> Permit | Denial:
    return evaluate(to or connection(), policies, PolicyCache())


def matches(source: SourceMatch | None = None, operation: OperationMatch | None = None, **facts: object) -> bool:
    """Whether a rule matches: seen through a DENY policy and, the other way round, through an ALLOW policy."""
    to = connection(**facts)  # type: ignore[arg-type]
    denied = isinstance(judge(policy("d", DENY, rule(source, operation)), to=to), Denial)
    allowed = isinstance(judge(policy("a", ALLOW, rule(source, operation)), to=to), Permit)
    assert denied == allowed
    return denied


def test_nothing_selects_so_everybody_may() -> None:
    permit = judge()
    assert isinstance(permit, Permit) and permit.policy is None and permit.connection == connection()


def test_a_permit_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="from nowhere else"):
        Permit(object(), connection(), None)


def test_deny_goes_before_allow_whatever_their_order() -> None:
    everybody = PolicyRule()
    order = (policy("a", ALLOW, everybody), policy("d", DENY, everybody))
    for policies in (order, order[::-1]):
        verdict = judge(*policies)
        assert isinstance(verdict, Denial)
        assert (verdict.reason, verdict.policy) == (Reason.POLICY_DENIED, "shop/d")


def test_a_deny_that_does_not_match_leaves_the_default() -> None:
    verdict = judge(policy("d", DENY, rule(SourceMatch(namespaces=("other",)))))
    assert isinstance(verdict, Permit) and verdict.policy is None


def test_an_allow_that_selects_turns_the_default_round() -> None:
    verdict = judge(policy("a", ALLOW, rule(SourceMatch(namespaces=("other",)))))
    assert isinstance(verdict, Denial)
    assert (verdict.reason, verdict.policy) == (Reason.POLICY_DENIED, "shop/a")
    assert "mesh.internal/ns/shop/sa/client" in verdict.detail and "8080" in verdict.detail


def test_one_allow_of_several_is_enough_and_is_named() -> None:
    verdict = judge(policy("a", ALLOW, rule(SourceMatch(namespaces=("x",)))), policy("b", ALLOW, PolicyRule()))
    assert isinstance(verdict, Permit) and verdict.policy == "shop/b"


def test_policies_without_rules_match_nobody() -> None:
    assert isinstance(judge(policy("d", DENY)), Permit)
    refused = judge(policy("a", ALLOW))
    assert isinstance(refused, Denial), "ALLOW without rules is the mesh-wide default deny"


def test_two_allows_that_refuse_name_no_single_culprit() -> None:
    verdict = judge(policy("a", ALLOW), policy("b", ALLOW))
    assert isinstance(verdict, Denial) and verdict.policy is None
    assert "shop/a, shop/b" in verdict.detail


@pytest.mark.parametrize(
    ("missing", "single"),
    [(MissingPolicy(("shop/x",)), "shop/x"), (MissingPolicy(("a", "b")), None), (MissingPolicy(()), None)],
)
def test_what_has_not_arrived_refuses(missing: MissingPolicy, single: str | None) -> None:
    verdict = evaluate(connection(), missing, PolicyCache())
    assert isinstance(verdict, Denial) and (verdict.reason, verdict.policy) == (Reason.POLICY_MISSING, single)


def test_a_long_list_of_missing_policies_is_counted() -> None:
    verdict = evaluate(connection(), MissingPolicy(tuple(f"p{n}" for n in range(1000))), PolicyCache())
    assert isinstance(verdict, Denial) and verdict.detail == "not received: p0, p1, p2, p3, p4 and 995 more"


@pytest.mark.parametrize("action", [ALLOW, DENY])
@pytest.mark.parametrize(
    "source",
    [
        SourceMatch(ip_blocks=("10.0.0.0/33",)),
        SourceMatch(not_ip_blocks=("ten",)),
        SourceMatch(principals=("a*b",)),
        SourceMatch(not_namespaces=("*a*",)),
    ],
)
def test_a_policy_that_cannot_be_read_refuses_whatever_the_others_say(action: Action, source: SourceMatch) -> None:
    broken = policy("broken", action, rule(source))
    for policies in ((broken, policy("a", ALLOW, PolicyRule())), (policy("a", ALLOW, PolicyRule()), broken)):
        verdict = judge(*policies)
        assert isinstance(verdict, Denial)
        assert (verdict.reason, verdict.policy) == (Reason.POLICY_MISSING, "shop/broken")
        assert "rules[0].sources[0]." in verdict.detail


def test_sources_are_alternatives_and_operations_are_alternatives_and_both_must_match() -> None:
    both = PolicyRule(
        sources=(SourceMatch(namespaces=("other",)), SourceMatch(namespaces=("shop",))),
        operations=(OperationMatch(ports=(1,)), OperationMatch(ports=(8080,))),
    )
    assert isinstance(judge(policy("d", DENY, both)), Denial)
    assert isinstance(judge(policy("d", DENY, both), to=connection(port=2)), Permit)
    stranger = SpiffeId.parse("spiffe://mesh.internal/ns/third/sa/client")
    assert isinstance(judge(policy("d", DENY, both), to=connection(stranger)), Permit)


def test_rules_are_alternatives() -> None:
    rules = (rule(SourceMatch(namespaces=("other",))), rule(SourceMatch(namespaces=("shop",))))
    verdict = judge(policy("d", DENY, *rules))
    assert isinstance(verdict, Denial) and "rule 1" in verdict.detail


def test_within_a_source_every_list_must_hold() -> None:
    assert matches(SourceMatch(namespaces=("shop",), ip_blocks=("10.0.0.0/8",)))
    assert not matches(SourceMatch(namespaces=("shop",), ip_blocks=("192.0.2.0/24",)))
    assert not matches(SourceMatch(namespaces=("shop",), not_ip_blocks=("10.0.0.0/8",)))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("mesh.internal/ns/shop/sa/client", True),
        ("spiffe://mesh.internal/ns/shop/sa/client", True),
        ("mesh.internal/ns/shop/sa/clien", False),
        ("mesh.internal/ns/shop/sa/client2", False),
        ("mesh.internal/ns/shop/*", True),
        ("mesh.internal/ns/sho*", True),
        ("other.example/ns/shop/*", False),
        ("*/sa/client", True),
        ("*lient", True),
        ("*client2", False),
        ("*", True),
        ("MESH.internal/ns/shop/sa/client", False),
        ("mesh.internal/ns/shop/sa/client*", True),
        ("*mesh.internal/ns/shop/sa/client", True),
    ],
)
def test_principals(pattern: str, expected: bool) -> None:
    assert matches(SourceMatch(principals=(pattern,))) is expected
    assert matches(SourceMatch(principals=("nobody", pattern))) is expected
    assert matches(SourceMatch(not_principals=(pattern,))) is not expected
    assert matches(SourceMatch(not_principals=("nobody", pattern))) is not expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("shop", True), ("sho", False), ("sh*", True), ("*op", True), ("*", True), ("shop*", True), ("other", False)],
)
def test_namespaces(pattern: str, expected: bool) -> None:
    assert matches(SourceMatch(namespaces=(pattern,))) is expected
    assert matches(SourceMatch(not_namespaces=(pattern,))) is not expected


def test_without_an_identity_nothing_positive_holds_and_everything_negative_does() -> None:
    assert not matches(SourceMatch(principals=("*",)), identity=None)
    assert not matches(SourceMatch(namespaces=("*",)), identity=None)
    assert matches(SourceMatch(not_principals=("*",)), identity=None)
    assert matches(SourceMatch(not_namespaces=("*",)), identity=None)
    verdict = judge(policy("a", ALLOW, rule(SourceMatch(principals=("*",)))), to=connection(None))
    assert isinstance(verdict, Denial) and "10.0.0.7 (no identity)" in verdict.detail


def test_an_identity_that_is_no_workload_has_no_namespace() -> None:
    node = SpiffeId.parse("spiffe://mesh.internal/node/node-a")
    assert not matches(SourceMatch(namespaces=("*",)), identity=node)
    assert matches(SourceMatch(principals=("mesh.internal/node/*",)), identity=node)


@pytest.mark.parametrize(
    ("block", "ip", "expected"),
    [
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.1.2.3/8", "10.0.0.1", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("0.0.0.0/0", "192.0.2.1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "10.0.0.1", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("2001:DB8::1", "2001:db8::1", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("::ffff:10.0.0.0/104", "11.0.0.0", False),
        ("::ffff:10.0.0.7", "10.0.0.7", True),
        ("::ffff:0:0/96", "10.0.0.1", True),
        ("::ffff:10.0.0.0/90", "10.0.0.1", False),
        ("::ffff:10.0.0.0/90", "2001:db8::1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.7/31", "10.0.0.6", True),
    ],
)
def test_ip_blocks(block: str, ip: str, expected: bool) -> None:
    assert matches(SourceMatch(ip_blocks=(block,)), ip=ip) is expected
    assert matches(SourceMatch(ip_blocks=("198.51.100.0/24", block)), ip=ip) is expected
    assert matches(SourceMatch(not_ip_blocks=(block,)), ip=ip) is not expected


def test_ports() -> None:
    assert matches(operation=OperationMatch(ports=(1, 8080)))
    assert not matches(operation=OperationMatch(ports=(1, 2)))
    assert not matches(operation=OperationMatch(not_ports=(1, 8080)))
    assert matches(operation=OperationMatch(not_ports=(1, 2)))
    assert not matches(operation=OperationMatch(ports=(8080,), not_ports=(8080,)))


def test_empty_sources_and_operations_match_anybody() -> None:
    assert matches(SourceMatch(), OperationMatch())
    assert matches(SourceMatch(), identity=None)


def test_an_address_that_is_none_is_no_permit() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        judge(policy("d", DENY, rule(SourceMatch(ip_blocks=("10.0.0.0/8",)))), to=connection(ip="client"))
