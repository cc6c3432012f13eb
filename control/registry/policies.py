"""AuthorizationPolicy and PeerAuthentication in Istio's shapes, as far as layer 4 goes; EgressPolicy beside them.

Source of the shapes: istio.io/latest/docs/reference/config/security/. A list that is written but empty is refused: it
would match everybody where its author means nobody. EgressPolicy has the two modes of Istio's
``outboundTrafficPolicy`` (istio.io/latest/docs/reference/config/networking/sidecar/) and PeerAuthentication's scopes.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from control.registry.model import API_VERSION, ISTIO_API_VERSIONS, MAX_LIST, Labels, Model, Name, Resource
from control.wire.address import AddressError, parse_port
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


def _port_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_port_text(text: str) -> str:
    """A decimal port in a string, as Istio has it."""
    try:
        parse_port(text)
    except AddressError as error:
        raise ValueError(str(error)) from None
    return text


Principals = Annotated[
    tuple[Annotated[str, AfterValidator(check_principal)], ...], Field(min_length=1, max_length=MAX_LIST)
]
Namespaces = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_LIST)]
IpBlocks = Annotated[
    tuple[Annotated[str, AfterValidator(check_ip_block)], ...], Field(min_length=1, max_length=MAX_LIST)
]
PortTexts = Annotated[
    tuple[Annotated[str, BeforeValidator(_port_text), AfterValidator(check_port_text)], ...],
    Field(min_length=1, max_length=MAX_LIST),
]


class LabelSelector(Model):
    """Which workloads; no labels: all of the namespace."""

    match_labels: Labels = Field(default_factory=dict)


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


class AuthorizationPolicySpec(Model):
    """Whom, what to do, when."""

    selector: LabelSelector | None = None
    action: Action = Action.ALLOW
    rules: Annotated[tuple[RuleSpec, ...], Field(max_length=MAX_LIST)] = ()


class AuthorizationPolicy(Resource):
    """Who may connect to the workloads it selects (layer 4)."""

    KIND: ClassVar[str] = "AuthorizationPolicy"
    PLURAL: ClassVar[str] = "authorizationpolicies"
    API_VERSIONS: ClassVar[tuple[str, ...]] = (API_VERSION, *ISTIO_API_VERSIONS)

    kind: Literal["AuthorizationPolicy"] = "AuthorizationPolicy"
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()


class MtlsSpec(Model):
    """UNSET inherits from the next wider PeerAuthentication."""

    mode: Literal["UNSET", "STRICT", "PERMISSIVE", "DISABLE"] = "UNSET"


PortText = Annotated[str, BeforeValidator(_port_text), AfterValidator(check_port_text)]


class PeerAuthenticationSpec(Model):
    """How plaintext from outside the mesh is met by the workloads it selects."""

    selector: LabelSelector | None = None
    mtls: MtlsSpec = MtlsSpec()
    port_level_mtls: Annotated[dict[PortText, MtlsSpec], Field(max_length=MAX_LIST)] = Field(default_factory=dict)
    """By the workload's own (target) port; what is UNSET there has the workload's mode."""

    @model_validator(mode="after")
    def _ports_belong_to_workloads(self) -> PeerAuthenticationSpec:
        if self.port_level_mtls and not (self.selector is not None and self.selector.match_labels):
            raise ValueError("portLevelMtls needs a selector with matchLabels: ports belong to workloads")
        return self


class PeerAuthentication(Resource):
    """How plaintext from outside the mesh is met."""

    KIND: ClassVar[str] = "PeerAuthentication"
    PLURAL: ClassVar[str] = "peerauthentications"
    API_VERSIONS: ClassVar[tuple[str, ...]] = (API_VERSION, *ISTIO_API_VERSIONS)

    kind: Literal["PeerAuthentication"] = "PeerAuthentication"
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()


class EgressPolicySpec(Model):
    """Where the workloads that it selects may go."""

    selector: LabelSelector | None = None
    mode: Literal["ALLOW_ANY", "REGISTRY_ONLY"]


class EgressPolicy(Resource):
    """Where workloads may go: anywhere, or to what the registry names."""

    KIND: ClassVar[str] = "EgressPolicy"
    PLURAL: ClassVar[str] = "egresspolicies"

    kind: Literal["EgressPolicy"] = "EgressPolicy"
    spec: EgressPolicySpec
