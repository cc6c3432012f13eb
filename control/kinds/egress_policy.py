"""EgressPolicy: where workloads may go, anywhere or to what the registry names.

Its two modes are those of Istio's ``outboundTrafficPolicy``
(istio.io/latest/docs/reference/config/networking/sidecar/), its scopes and precedence those of PeerAuthentication.
"""

from __future__ import annotations

from typing import Any, Literal

from control.kinds.base import cells
from control.kinds.base.istio import TARGET_REFS, WithSelector, by_precedence
from control.kinds.base.kind import Kind, Refinement, View
from control.kinds.base.model import Resource
from control.kinds.base.relations import Object, Reach, Selector
from control.wire.discovery import EgressMode, Workload


class EgressPolicySpec(WithSelector):
    """Where the workloads that it selects may go."""

    mode: Literal["ALLOW_ANY", "REGISTRY_ONLY"]


def _workload_egress(workload: Resource[Any], view: View) -> dict[str, Any]:
    """The mode of the narrowest policy, and its uid; ALLOW_ANY if there is none."""
    for level in by_precedence(view, KIND, workload):
        for policy in level:
            return {"egress_mode": EgressMode(policy.spec.mode), "egress_policy": policy.uid}
    return {}


def _mode(document: Object) -> str:
    return str(document["spec"]["mode"])


KIND = Kind(
    name="EgressPolicy",
    plural="egresspolicies",
    aliases=("ep", "egress"),
    doc="Where workloads may go: anywhere, or to what the registry names.",
    order=80,
    spec=EgressPolicySpec,
    unsupported=TARGET_REFS,
    selector=Selector(reach=Reach.ROOT_DEFAULT, section="egress policies that select it"),
    refinements=(Refinement(of=Workload, fields=_workload_egress),),
    columns=(("MODE", _mode), ("SELECTOR", cells.selector)),
    remark=lambda o: f"({_mode(o)})",
)
