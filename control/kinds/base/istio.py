"""What the kinds in Istio's shapes share.

Source: istio.io/latest/docs/reference/config/security/. In precedence the narrowest policy wins: one with labels, then
its namespace's, then the root namespace's; of equals the oldest.
"""

from __future__ import annotations

from typing import Any, TypeVar

from control.kinds.base.kind import Kind, View
from control.kinds.base.model import LabelSelector, Model, Resource

SECURITY_API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
TARGET_REFS = {name: f"{name} is not supported; select workloads with selector" for name in ("targetRefs", "targetRef")}


class WithSelector(Model):
    """The spec of a policy that selects workloads."""

    selector: LabelSelector | None = None


PolicySpec = TypeVar("PolicySpec", bound=WithSelector)


def by_precedence(view: View, kind: Kind[PolicySpec], workload: Resource[Any]) -> list[list[Resource[PolicySpec]]]:
    """The policies that select a workload: by labels, for its namespace, for the mesh; each list oldest first."""
    levels: list[list[Resource[PolicySpec]]] = [[], [], []]
    for policy in view.selecting(kind, workload):
        selector = policy.spec.selector
        if selector is not None and selector.match_labels:
            levels[0].append(policy)
        else:
            levels[1 if policy.namespace == workload.namespace else 2].append(policy)
    for level in levels:
        if len(level) > 1:
            level.sort(key=_age)
    return levels


def _age(policy: Resource[Any]) -> tuple[int, str]:
    return int(policy.uid.rpartition("@")[2]), policy.name
