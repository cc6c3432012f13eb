"""Wire objects for tests: short to write, complete, and different only where a test says so."""

from __future__ import annotations

from typing import Any

from control.codec.lines import write_change, write_line
from control.codec.values import encode, to_json
from control.wire.discovery import (
    Action,
    AppProtocol,
    AuthorizationPolicy,
    DiscoveryObject,
    External,
    ExternalEndpoint,
    MeshSettings,
    OperationMatch,
    PolicyRule,
    Resolution,
    Selectors,
    Service,
    ServicePort,
    SourceMatch,
    TrustBundle,
    Workload,
)
from control.wire.watch import Batch, Change

INSTANCE = "history-1"
KIND_OF: dict[type, str] = {
    Workload: "workload", Service: "service", AuthorizationPolicy: "policy", TrustBundle: "bundle",
    MeshSettings: "mesh",
}  # fmt: skip


def workload(name: str = "web-0", namespace: str = "shop", **changes: Any) -> Workload:
    """``shop/web-0`` on node-a, at 10.0.0.1:8080, of service account ``web``."""
    account = changes.pop("service_account", "web")
    fields: dict[str, Any] = {
        "uid": f"{namespace}/{name}@1",
        "name": name,
        "namespace": namespace,
        "node": "node-a",
        "identity": f"spiffe://mesh.internal/ns/{namespace}/sa/{account}",
        "addresses": ("10.0.0.1",),
        "ports": (8080,),
        "selectors": Selectors(cgroup_path=f"/{namespace}/{name}"),
        "sni": f"{name}.{namespace}.workload.mesh.internal",
        "labels": {"app": account},
        "canonical_service": account,
        "canonical_revision": "latest",
        "app": account,
        "version": "",
        "cluster": "",
        "service_account": account,
    }
    return Workload(**{**fields, **changes})


def service(name: str = "web", namespace: str = "shop", **changes: Any) -> Service:
    """``shop/web`` at 240.240.0.10:80, target port 8080, before ``shop/web-0``."""
    fields: dict[str, Any] = {
        "uid": f"{namespace}/{name}",
        "name": name,
        "namespace": namespace,
        "hostname": f"{name}.{namespace}.mesh.internal",
        "addresses": ("240.240.0.10",),
        "ports": (ServicePort(name="http", port=80, target_port=8080),),
        "endpoints": (f"{namespace}/{name}-0@1",),
    }
    return Service(**{**fields, **changes})


def external(
    host: str = "api.example.com",
    *endpoints: ExternalEndpoint,
    resolution: Resolution = Resolution.STATIC,
    **changes: Any,
) -> Service:
    """A service outside the mesh at 240.240.0.99:443; STATIC: at 192.0.2.10:8443."""
    places = endpoints or (ExternalEndpoint(address="192.0.2.10" if resolution is Resolution.STATIC else host),)
    fields: dict[str, Any] = {
        "uid": f"shop/pay@9/{host}",
        "hostname": host,
        "addresses": ("240.240.0.99", "fd6d:6573:68::63"),
        "ports": (ServicePort(name="tls", port=443, target_port=8443, protocol=AppProtocol.TLS),),
        "endpoints": (),
        "external": External(resolution=resolution, endpoints=places),
    }
    return service(host, **{**fields, **changes})


def policy(
    name: str = "p", action: Action = Action.DENY, *rules: PolicyRule, namespace: str = "shop"
) -> AuthorizationPolicy:
    """A policy ``shop/p``."""
    return AuthorizationPolicy(uid=f"{namespace}/{name}", name=name, namespace=namespace, action=action, rules=rules)


def rule(source: SourceMatch | None = None, operation: OperationMatch | None = None) -> PolicyRule:
    """A rule of at most one source and one operation."""
    return PolicyRule(sources=() if source is None else (source,), operations=() if operation is None else (operation,))


def bundle(*certificates: str, trust_domain: str = "mesh.internal") -> TrustBundle:
    """A trust domain's roots."""
    return TrustBundle(uid=trust_domain, certificates=certificates)


def change(value: DiscoveryObject, **overrides: Any) -> Change:
    """The object as it is sent; ``overrides`` replace fields of its JSON form (``<absent>``: left out)."""
    form = {**encode(value), **overrides}
    present = {k: v for k, v in form.items() if v != "<absent>"}
    return Change(kind=KIND_OF[type(value)], uid=value.uid, value=to_json(present))


def line(batch: Batch) -> bytes:
    """The batch as control sends it."""
    return write_line(batch.instance, batch.revision, map(write_change, batch.changes), snapshot=batch.snapshot)


def gone(value: DiscoveryObject) -> Change:
    """The object's end."""
    return Change(kind=KIND_OF[type(value)], uid=value.uid)


def snapshot(*items: DiscoveryObject | Change, revision: int = 1, instance: str = INSTANCE) -> Batch:
    """Everything there is."""
    return Batch(instance=instance, revision=revision, snapshot=True, changes=_changes(items))


def delta(*items: DiscoveryObject | Change, revision: int = 2, instance: str = INSTANCE) -> Batch:
    """What changed."""
    return Batch(instance=instance, revision=revision, changes=_changes(items))


def _changes(items: tuple[DiscoveryObject | Change, ...]) -> tuple[Change, ...]:
    return tuple(item if isinstance(item, Change) else change(item) for item in items)
