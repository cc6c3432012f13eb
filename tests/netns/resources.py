"""Resources as an operator writes them, with the few things filled in that stories vary."""

from __future__ import annotations

from typing import Any

NAMESPACE = "shop"
ROOT_NAMESPACE = "nodemesh-system"
API = "nodemesh/v1"


def workload(
    name: str,
    node: str,
    *,
    namespace: str = NAMESPACE,
    account: str = "",
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A workload in the cgroup ``/<namespace>/<name>`` of its node, its service account named after it."""
    return {
        "apiVersion": API,
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name, "version": "v1", **(labels or {})}},
        "spec": {
            "node": node,
            "serviceAccount": account or name,
            "selectors": {"cgroupPath": f"/{namespace}/{name}"},
            **spec,
        },
    }


def service(
    name: str,
    ports: dict[int, int],
    *,
    addresses: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """A service before the workloads labelled ``app: <name>``; ``ports`` is port -> target port."""
    spec: dict[str, Any] = {
        "selector": {"app": name},
        "ports": [{"name": f"p{port}", "port": port, "targetPort": target} for port, target in ports.items()],
        **extra,
    }
    if addresses:
        spec["addresses"] = list(addresses)
    metadata = {"name": name, "namespace": NAMESPACE, **({"labels": labels} if labels else {})}
    return {"apiVersion": API, "kind": "Service", "metadata": metadata, "spec": spec}


def mesh_config(**spec: Any) -> dict[str, Any]:
    """What holds in the whole mesh."""
    return {"apiVersion": API, "kind": "MeshConfig", "metadata": {"name": "default"}, "spec": spec}


def node(name: str, *addresses: str) -> dict[str, Any]:
    """A node and the addresses by which others reach it."""
    return {"apiVersion": API, "kind": "Node", "metadata": {"name": name}, "spec": {"addresses": list(addresses)}}


def policy(
    name: str,
    action: str,
    *,
    app: str | None,
    rules: list[dict[str, Any]] | None = None,
    namespace: str = NAMESPACE,
) -> dict[str, Any]:
    """An AuthorizationPolicy for one app, or for its whole namespace (the root namespace: the whole mesh)."""
    spec: dict[str, Any] = {"action": action}
    if rules is not None:
        spec["rules"] = rules
    if app is not None:
        spec["selector"] = {"matchLabels": {"app": app}}
    return {
        "apiVersion": API,
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def peer_authentication(
    name: str, mode: str, *, app: str | None = None, ports: dict[int, str] | None = None, namespace: str = NAMESPACE
) -> dict[str, Any]:
    """How plaintext is met by one app (on some ports otherwise), by its whole namespace, or by the whole mesh."""
    spec: dict[str, Any] = {"mtls": {"mode": mode}}
    if app is not None:
        spec["selector"] = {"matchLabels": {"app": app}}
    if ports:
        spec["portLevelMtls"] = {str(port): {"mode": other} for port, other in ports.items()}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API, "kind": "PeerAuthentication", "metadata": metadata, "spec": spec}


def egress_policy(name: str, mode: str, *, app: str | None = None, namespace: str = NAMESPACE) -> dict[str, Any]:
    """Where one app, its whole namespace, or the whole mesh may go."""
    spec: dict[str, Any] = {"mode": mode}
    if app is not None:
        spec["selector"] = {"matchLabels": {"app": app}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API, "kind": "EgressPolicy", "metadata": metadata, "spec": spec}


def service_entry(
    name: str,
    *hosts: str,
    port: int,
    endpoints: list[dict[str, Any]] | None = None,
    resolution: str = "STATIC",
    **extra: Any,
) -> dict[str, Any]:
    """Hosts outside the mesh, TLS on 443; ``port`` is where they listen."""
    spec: dict[str, Any] = {
        "hosts": list(hosts),
        "resolution": resolution,
        "ports": [{"number": 443, "name": "tls", "protocol": "TLS", "targetPort": port}],
        **({"endpoints": endpoints} if endpoints else {}),
        **extra,
    }
    return {"apiVersion": API, "kind": "ServiceEntry", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def from_principal(account: str, namespace: str = NAMESPACE, **more: list[str]) -> dict[str, Any]:
    """A rule that matches one service account."""
    source = {"principals": [f"mesh.internal/ns/{namespace}/sa/{account}"], **more}
    return {"from": [{"source": source}]}
