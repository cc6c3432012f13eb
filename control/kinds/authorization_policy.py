"""AuthorizationPolicy in Istio's shape, as far as layer 4 goes: who may connect to workloads.

Source of the shape: istio.io/latest/docs/reference/config/security/authorization-policy/. A list that is written but
empty is refused: it would match everybody where its author means nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from control.kinds.base import cells
from control.kinds.base.fields import MAX_LIST, Name, PortText
from control.kinds.base.istio import SECURITY_API_VERSIONS, TARGET_REFS, WithSelector
from control.kinds.base.kind import Kind, Refinement, View
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import API_VERSION, Model, Resource
from control.kinds.base.relations import Object, Selector
from control.wire import discovery as wire
from control.wire.discovery import Action

MAX_PRINCIPAL_CHARACTERS = 2048

LAYER_7_FIELDS = frozenset(
    {
        "requestPrincipals",
        "notRequestPrincipals",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
        "hosts",
        "notHosts",
        "methods",
        "notMethods",
        "paths",
        "notPaths",
        "when",
    }
)
"""Fields of Istio's AuthorizationPolicy that look into requests; refused by name."""


def check_principal(text: str) -> str:
    """``<trust-domain>/ns/<ns>/sa/<sa>`` with at most one ``*``, at the start or the end."""
    if text.startswith("spiffe://"):
        raise ValueError(f"{text[:120]!r}: write the principal without spiffe://")
    if not text or len(text) > MAX_PRINCIPAL_CHARACTERS:
        raise ValueError(f"a principal has 1 to {MAX_PRINCIPAL_CHARACTERS} characters")
    if "*" in text.removeprefix("*") if text.startswith("*") else "*" in text.removesuffix("*"):
        raise ValueError(f"{text[:120]!r}: '*' may stand once, at the start or at the end")
    parts = text.split("/")
    if "*" not in text and (len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa" or not all(parts)):
        raise ValueError(
            f"{text[:120]!r} is not <trust-domain>/ns/<namespace>/sa/<service-account>; it would match nobody"
        )
    return text


def check_ip_block(text: str) -> str:
    """A prefix or an address, canonical: host bits cleared, v4-mapped made IPv4."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not an address or a prefix such as 10.0.0.0/8") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return str(ipaddress.IPv4Network((mapped, network.prefixlen - 96)))
    return str(network)


Principals = Annotated[
    tuple[Annotated[str, AfterValidator(check_principal)], ...], Field(min_length=1, max_length=MAX_LIST)
]
Namespaces = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_LIST)]
IpBlocks = Annotated[
    tuple[Annotated[str, AfterValidator(check_ip_block)], ...], Field(min_length=1, max_length=MAX_LIST)
]
PortTexts = Annotated[tuple[PortText, ...], Field(min_length=1, max_length=MAX_LIST)]


class NotEmpty(Model):
    """A block in which at least one field must be given."""

    @model_validator(mode="after")
    def _not_empty(self) -> NotEmpty:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            known = ", ".join(str(field.alias) for field in type(self).model_fields.values())
            raise ValueError(f"at least one of {known} must be given: an empty block would match everybody")
        return self


class SourceSpec(NotEmpty):
    """Who connects: every field given must match."""

    principals: Principals | None = None
    not_principals: Principals | None = None
    namespaces: Namespaces | None = None
    not_namespaces: Namespaces | None = None
    ip_blocks: IpBlocks | None = None
    not_ip_blocks: IpBlocks | None = None


class OperationSpec(NotEmpty):
    """What is connected to."""

    ports: PortTexts | None = None
    not_ports: PortTexts | None = None


class FromSpec(Model):
    """One alternative of ``from``."""

    source: SourceSpec


class ToSpec(Model):
    """One alternative of ``to``."""

    operation: OperationSpec


class RuleSpec(Model):
    """Matches if one of ``from`` and one of ``to`` match; a side that is absent matches anything."""

    from_: Annotated[tuple[FromSpec, ...] | None, Field(alias="from", min_length=1, max_length=MAX_LIST)] = None
    to: Annotated[tuple[ToSpec, ...] | None, Field(min_length=1, max_length=MAX_LIST)] = None


class AuthorizationPolicySpec(WithSelector):
    """Whom, what to do, when."""

    action: Action = Action.ALLOW
    rules: Annotated[tuple[RuleSpec, ...], Field(max_length=MAX_LIST)] = ()


def _project(policy: Resource[AuthorizationPolicySpec], _: View, __: Mesh) -> Iterable[wire.AuthorizationPolicy]:
    """The rules alone: each workload names the policies that select it."""
    rules = tuple(
        wire.PolicyRule(
            sources=tuple(_source(item.source) for item in rule.from_ or ()),
            operations=tuple(_operation(item.operation) for item in rule.to or ()),
        )
        for rule in policy.spec.rules
    )
    yield wire.AuthorizationPolicy(
        uid=policy.uid, name=policy.name, namespace=policy.namespace, action=policy.spec.action, rules=rules
    )


def _source(source: SourceSpec) -> wire.SourceMatch:
    return wire.SourceMatch(
        principals=source.principals or (),
        not_principals=source.not_principals or (),
        namespaces=source.namespaces or (),
        not_namespaces=source.not_namespaces or (),
        ip_blocks=source.ip_blocks or (),
        not_ip_blocks=source.not_ip_blocks or (),
    )


def _operation(operation: OperationSpec) -> wire.OperationMatch:
    return wire.OperationMatch(
        ports=tuple(int(port) for port in operation.ports or ()),
        not_ports=tuple(int(port) for port in operation.not_ports or ()),
    )


def _workload_policies(workload: Resource[Any], view: View) -> dict[str, Any]:
    return {"policies": tuple(sorted(policy.uid for policy in view.selecting(KIND, workload)))}


def _action(document: Object) -> str:
    return str(document["spec"].get("action", "ALLOW"))


def _unsupported() -> dict[str, str]:
    layer_7 = (
        "looks into requests (layer 7); policies are enforced on connections, L4 only: principals, "
        "namespaces, ipBlocks, ports and their not-forms"
    )
    return {
        **{name: f"{name} {layer_7}" for name in LAYER_7_FIELDS},
        **TARGET_REFS,
        "provider": "provider belongs to CUSTOM policies, which are not supported",
    }


KIND = Kind(
    name="AuthorizationPolicy",
    plural="authorizationpolicies",
    aliases=("ap", "policy", "policies"),
    doc="Who may connect to the workloads it selects (layer 4).",
    order=60,
    spec=AuthorizationPolicySpec,
    spec_required=False,
    api_versions=(API_VERSION, *SECURITY_API_VERSIONS),
    unsupported=_unsupported(),
    selector=Selector(section="policies that select it"),
    wire=wire.AuthorizationPolicy,
    project=_project,
    refinements=(Refinement(of=wire.Workload, fields=_workload_policies),),
    columns=(
        ("ACTION", _action),
        ("RULES", lambda o: str(len(o["spec"].get("rules") or ()))),
        ("SELECTOR", cells.selector),
    ),
    remark=lambda o: f"({_action(o)})",
)
