"""Why a connection is allowed or refused, step by step. The evaluator itself is asked; nothing is decided here."""

from __future__ import annotations

from dataclasses import dataclass

from control.wire.discovery import AuthorizationPolicy
from nodeagent.policy.compile import PolicyCache
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Denial, evaluate
from nodeagent.state.targets import MissingPolicy


@dataclass(frozen=True, slots=True)
class PolicyStep:
    """One thing that the evaluator looked at, in its order."""

    policy: str
    """uid; empty in the last step, the verdict, where no single policy decided."""
    place: str
    """Where in the policy, such as ``rules[0].sources[1]``; ``verdict`` in the last step."""
    matched: bool
    """Whether that part matched; in the verdict: whether the connection is allowed."""
    why: str


def explain(connection: Connection, policies: tuple[AuthorizationPolicy, ...] | MissingPolicy) -> list[PolicyStep]:
    """Every step of the evaluation; the last one is the verdict."""
    steps: list[PolicyStep] = []

    def trace(policy: str, place: str, matched: bool, why: str) -> None:
        steps.append(PolicyStep(policy, place, matched, why))

    verdict = evaluate(connection, policies, PolicyCache(), trace)
    if isinstance(verdict, Denial):
        steps.append(PolicyStep(verdict.policy or "", "verdict", False, f"{verdict.reason.code}: {verdict.detail}"))
    elif verdict.policy is None:
        steps.append(
            PolicyStep("", "verdict", True, "no ALLOW policy selects the destination, and no DENY policy matches")
        )
    else:
        steps.append(PolicyStep(verdict.policy, "verdict", True, f"ALLOW policy {verdict.policy} matches"))
    return steps
