"""The one evaluator: may this connection be made?

In this order (Istio's, for L4):

1. A policy that has not arrived, or cannot be read, refuses: what it would say is not known.
2. A DENY policy that matches refuses.
3. If no ALLOW policy selects the workload, the connection is allowed.
4. An ALLOW policy that matches allows; otherwise it is refused.

A policy matches if one of its rules does; a rule, if one of its sources and one of its operations do (none given:
any); a source or an operation, if every list that is not empty holds. Without an identity (plaintext) ``principals``
and ``namespaces`` never hold, not even ``*``, and ``not_principals`` and ``not_namespaces`` always do, as in Istio: to
admit only the mesh, write ``principals: ["*"]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from control.wire.discovery import Action, AuthorizationPolicy
from nodeagent.policy.compile import BrokenPolicy, Check, CompiledPolicy, CompiledRule, Facts, PolicyCache
from nodeagent.policy.connection import Connection
from nodeagent.reasons import Reason
from nodeagent.state.targets import MissingPolicy

MAX_NAMED = 5
"""Policies that a message names before it only counts them."""

_SEAL = object()


class Permit:
    """The right to make one connection. Only ``evaluate`` makes one; what dials asks for it."""

    __slots__ = ("connection", "policy")

    connection: Connection
    """What was judged: keep it to judge again when a policy changes."""
    policy: str | None
    """The uid of the ALLOW policy that matched; None: no ALLOW policy selects the workload."""

    def __init__(self, seal: object, connection: Connection, policy: str | None) -> None:
        if seal is not _SEAL:
            raise TypeError("a Permit comes from nodeagent.policy.evaluate.evaluate and from nowhere else")
        self.connection = connection
        self.policy = policy

    def __repr__(self) -> str:
        return f"Permit({self.connection!r}, policy={self.policy!r})"


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal."""

    reason: Reason
    """POLICY_DENIED or POLICY_MISSING; PLAINTEXT_REFUSED where no policy was asked."""
    policy: str | None
    """The uid of the policy that refused (or is missing or broken); None: several, or no ALLOW policy matched."""
    detail: str
    """In words, for the access log. Not for the peer."""


Trace = Callable[[str, str, bool, str], None]
"""Called with (policy uid, place in it, whether it matched, why) for each step: what ``explain`` listens to."""


def evaluate(
    connection: Connection,
    policies: tuple[AuthorizationPolicy, ...] | MissingPolicy,
    cache: PolicyCache,
    trace: Trace | None = None,
) -> Permit | Denial:
    """Judge a connection by every policy that selects its destination (``NodeState.policies_of``)."""
    if isinstance(policies, MissingPolicy):
        return _missing(policies)
    compiled: list[CompiledPolicy] = []
    for policy in policies:
        entry = cache.get(policy)
        if isinstance(entry, BrokenPolicy):
            return Denial(Reason.POLICY_MISSING, entry.uid, f"policy {entry.uid} cannot be read: {entry.detail}")
        compiled.append(entry)
    facts = Facts(connection)
    for candidate in compiled:
        if candidate.action is Action.DENY:
            rule = _matching_rule(candidate, facts, trace)
            if rule is not None:
                detail = f"rule {rule} of DENY policy {candidate.uid} matches"
                return Denial(Reason.POLICY_DENIED, candidate.uid, detail)
    allows = [candidate for candidate in compiled if candidate.action is not Action.DENY]
    if not allows:
        return Permit(_SEAL, connection, None)
    for candidate in allows:
        if _matching_rule(candidate, facts, trace) is not None:
            return Permit(_SEAL, connection, candidate.uid)
    return _not_allowed(facts, [candidate.uid for candidate in allows])


def _missing(missing: MissingPolicy) -> Denial:
    if not missing.uids:
        return Denial(Reason.POLICY_MISSING, None, "the destination is not known, so what selects it is not either")
    names = ", ".join(missing.uids[:MAX_NAMED])
    more = len(missing.uids) - MAX_NAMED
    only = missing.uids[0] if len(missing.uids) == 1 else None
    return Denial(Reason.POLICY_MISSING, only, f"not received: {names}" + (f" and {more} more" if more > 0 else ""))


def _not_allowed(facts: Facts, uids: list[str]) -> Denial:
    who = facts.principal or f"{facts.connection.source_ip} (no identity)"
    names = ", ".join(uids[:MAX_NAMED])
    more = f" and {len(uids) - MAX_NAMED} more" if len(uids) > MAX_NAMED else ""
    only = uids[0] if len(uids) == 1 else None
    return Denial(
        Reason.POLICY_DENIED, only, f"no ALLOW policy admits {who} to port {facts.port} (looked at: {names}{more})"
    )


def _matching_rule(policy: CompiledPolicy, facts: Facts, trace: Trace | None) -> int | None:
    """The index of the first rule that matches."""
    for index, rule in enumerate(policy.rules):
        tell = None if trace is None else _narrowed(trace, policy.uid, f"rules[{index}]")
        if _rule_matches(rule, facts, tell):
            return index
    if trace is not None and not policy.rules:
        trace(policy.uid, "rules", False, "no rules: matches nobody")
    return None


Tell = Callable[[str, bool, str], None]


def _narrowed(trace: Trace, uid: str, path: str) -> Tell:
    return lambda place, matched, why: trace(uid, f"{path}{place}", matched, why)


def _rule_matches(rule: CompiledRule, facts: Facts, tell: Tell | None) -> bool:
    matched = _any_matches(rule.sources, facts, tell, ".sources") and _any_matches(
        rule.operations, facts, tell, ".operations"
    )
    if tell is not None:
        tell("", matched, "matches" if matched else "does not match")
    return matched


def _any_matches(groups: tuple[tuple[Check, ...], ...], facts: Facts, tell: Tell | None, place: str) -> bool:
    if not groups:
        return True
    for index, checks in enumerate(groups):
        failing = _first_failing(checks, facts)
        if tell is not None:
            tell(f"{place}[{index}]", failing is None, _why(failing, facts))
        if failing is None:
            return True
    return False


def _first_failing(checks: tuple[Check, ...], facts: Facts) -> Check | None:
    for check in checks:
        if check.any_matches(facts) is check.negated:
            return check
    return None


def _why(failing: Check | None, facts: Facts) -> str:
    if failing is None:
        return "every list holds"
    subject = {
        "principals": facts.principal or "no identity",
        "namespaces": facts.namespace or "no namespace",
        "ip_blocks": facts.connection.source_ip,
        "ports": str(facts.port),
    }[failing.name.removeprefix("not_")]
    entries = ", ".join(failing.entries[:MAX_NAMED]) + (", …" if len(failing.entries) > MAX_NAMED else "")
    return f"{failing.name}: {subject} is {'' if failing.negated else 'not '}in [{entries}]"
