"""PeerAuthentication in Istio's shape: how workloads treat plaintext from outside the mesh.

Source of the shape and of its precedence: istio.io/latest/docs/reference/config/security/peer_authentication/.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from control.kinds.base import cells
from control.kinds.base.fields import MAX_LIST, PortText
from control.kinds.base.istio import SECURITY_API_VERSIONS, TARGET_REFS, WithSelector, by_precedence
from control.kinds.base.kind import Kind, Refinement, View
from control.kinds.base.model import API_VERSION, Model, Resource
from control.kinds.base.relations import Object, Reach, Selector
from control.wire.discovery import MtlsMode, Workload

UNSET = "UNSET"


class MtlsSpec(Model):
    """UNSET inherits from the next wider PeerAuthentication."""

    mode: Literal["UNSET", "STRICT", "PERMISSIVE", "DISABLE"] = "UNSET"


class PeerAuthenticationSpec(WithSelector):
    """How plaintext from outside the mesh is met by the workloads it selects."""

    mtls: MtlsSpec = MtlsSpec()
    port_level_mtls: Annotated[dict[PortText, MtlsSpec], Field(max_length=MAX_LIST)] = Field(default_factory=dict)
    """By the workload's own (target) port; a port that is UNSET has the workload's mode."""

    @model_validator(mode="after")
    def _ports_belong_to_workloads(self) -> PeerAuthenticationSpec:
        if self.port_level_mtls and not (self.selector is not None and self.selector.match_labels):
            raise ValueError("portLevelMtls needs a selector with matchLabels: ports belong to workloads")
        return self


def _workload_modes(workload: Resource[Any], view: View) -> dict[str, Any]:
    """The mode of the narrowest policy that sets one (PERMISSIVE if none does), and the modes of single ports."""
    levels = by_precedence(view, KIND, workload)
    modes = [policy.spec.mtls.mode for level in levels for policy in level if policy.spec.mtls.mode != UNSET]
    ports: dict[str, MtlsMode] = {}
    for policy in levels[0]:
        for port, mtls in policy.spec.port_level_mtls.items():
            if mtls.mode != UNSET:
                ports.setdefault(port, MtlsMode(mtls.mode))
    return {"mtls_mode": MtlsMode(modes[0]) if modes else MtlsMode.PERMISSIVE, "port_mtls_modes": ports}


def _mode(document: Object) -> str:
    return str((document["spec"].get("mtls") or {}).get("mode", UNSET))


def _remark(document: Object) -> str:
    ports = document["spec"].get("portLevelMtls") or {}
    modes = [_mode(document), *(f"port {port} {mtls.get('mode', UNSET)}" for port, mtls in ports.items())]
    return f"({', '.join(modes)})"


KIND = Kind(
    name="PeerAuthentication",
    plural="peerauthentications",
    aliases=("pa",),
    doc="How plaintext from outside the mesh is met.",
    order=70,
    spec=PeerAuthenticationSpec,
    spec_required=False,
    api_versions=(API_VERSION, *SECURITY_API_VERSIONS),
    unsupported=TARGET_REFS,
    selector=Selector(reach=Reach.ROOT_DEFAULT, section="peer authentications that select it"),
    refinements=(Refinement(of=Workload, fields=_workload_modes),),
    columns=(("MODE", _mode), ("SELECTOR", cells.selector)),
    remark=_remark,
)
