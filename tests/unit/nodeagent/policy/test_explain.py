"""The steps tell what the evaluator looked at, and end with its own verdict."""

from __future__ import annotations

from control.wire.discovery import Action, OperationMatch, PolicyRule, SourceMatch
from control.wire.ids import SpiffeId
from nodeagent.policy.connection import Connection
from nodeagent.policy.explain import PolicyStep, explain
from nodeagent.state.targets import MissingPolicy
from tests.support.objects import policy, rule

CLIENT = SpiffeId.parse("spiffe://mesh.internal/ns/shop/sa/client")
CONNECTION = Connection(CLIENT, "10.0.0.7", "10.0.0.1", 8080)


def test_a_refusal_is_traced_to_its_list() -> None:
    steps = explain(CONNECTION, (policy("a", Action.ALLOW, rule(SourceMatch(namespaces=("x", "y")))),))
    assert steps[0] == PolicyStep("shop/a", "rules[0].sources[0]", False, "namespaces: shop is not in [x, y]")
    assert steps[1] == PolicyStep("shop/a", "rules[0]", False, "does not match")
    assert steps[-1].place == "verdict" and not steps[-1].matched and "policy-denied" in steps[-1].why


def test_a_negated_list_says_so() -> None:
    source = SourceMatch(not_ip_blocks=("10.0.0.0/8",))
    steps = explain(CONNECTION, (policy("a", Action.ALLOW, rule(source)),))
    assert steps[0].why == "not_ip_blocks: 10.0.0.7 is in [10.0.0.0/8]"


def test_the_port_is_looked_at_after_the_source() -> None:
    matching = rule(SourceMatch(principals=("*",)), OperationMatch(ports=(1,)))
    places = [(s.place, s.matched) for s in explain(CONNECTION, (policy("d", Action.DENY, matching),))]
    assert places == [
        ("rules[0].sources[0]", True), ("rules[0].operations[0]", False), ("rules[0]", False), ("verdict", True),
    ]  # fmt: skip


def test_a_permit_names_the_policy() -> None:
    last = explain(CONNECTION, (policy("a", Action.ALLOW, PolicyRule()),))[-1]
    assert (last.policy, last.matched) == ("shop/a", True)


def test_nothing_selects() -> None:
    (only,) = explain(CONNECTION, ())
    assert only.matched and "no ALLOW policy selects" in only.why


def test_a_policy_without_rules_is_a_step_of_its_own() -> None:
    assert explain(CONNECTION, (policy("a", Action.ALLOW),))[0].why == "no rules: matches nobody"


def test_what_is_missing_is_the_whole_story() -> None:
    (only,) = explain(CONNECTION, MissingPolicy(("shop/x",)))
    assert (only.policy, only.matched) == ("shop/x", False) and "policy-missing" in only.why


def test_without_identity_the_step_says_no_identity() -> None:
    plain = Connection(None, "10.0.0.7", "10.0.0.1", 8080)
    steps = explain(plain, (policy("a", Action.ALLOW, rule(SourceMatch(principals=("*",)))),))
    assert steps[0].why == "principals: no identity is not in [*]"
