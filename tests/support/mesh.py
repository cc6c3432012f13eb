"""Resources as an operator writes them, and a registry to put them into."""

from __future__ import annotations

from typing import Any

from control.registry.registry import Registry
from control.store.memory import MemoryStore

Object = dict[str, Any]
STARTED = 1_700_000_000.0


class Clock:
    """Seconds since 1970, moved by the test."""

    def __init__(self, now: float = STARTED) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_registry(clock: Clock | None = None) -> tuple[Registry, MemoryStore]:
    """An empty registry in memory."""
    store = MemoryStore(clock or Clock())
    return Registry(store, clock or Clock()), store


def resource(kind: str, name: str, spec: Object, namespace: str | None = "shop", **metadata: Any) -> Object:
    """Any resource."""
    place = {} if namespace is None else {"namespace": namespace}
    return {"apiVersion": "nodemesh/v1", "kind": kind, "metadata": {"name": name, **place, **metadata}, "spec": spec}


def node(name: str = "node-a", *addresses: str) -> Object:
    """A node at 10.0.0.1 and fd00::1, or elsewhere."""
    return resource("Node", name, {"addresses": list(addresses or ("10.0.0.1", "fd00::1"))}, None)


def workload(name: str = "web-0", labels: dict[str, str] | None = None, namespace: str = "shop", **spec: Any) -> Object:
    """A workload on node-a with a unit of its own name."""
    whole = {"node": "node-a", "serviceAccount": "web", "selectors": {"systemdUnit": f"{name}.service"}, **spec}
    return resource("Workload", name, whole, namespace, labels={"app": "web"} if labels is None else labels)


def service(name: str = "web", namespace: str = "shop", **spec: Any) -> Object:
    """A service of app=web: port 80 to 8080."""
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}]
    return resource("Service", name, {"selector": {"app": "web"}, "ports": ports, **spec}, namespace)


def mesh_config(name: str = "default", **spec: Any) -> Object:
    """What holds in the whole mesh."""
    return resource("MeshConfig", name, spec, None)


def policy(name: str = "deny", namespace: str = "shop", **spec: Any) -> Object:
    """An AuthorizationPolicy."""
    return resource("AuthorizationPolicy", name, spec, namespace)


def egress(name: str = "default", mode: str = "REGISTRY_ONLY", namespace: str = "shop", **spec: Any) -> Object:
    """An EgressPolicy."""
    return resource("EgressPolicy", name, {"mode": mode, **spec}, namespace)


def entry(name: str = "pay", namespace: str = "shop", **spec: Any) -> Object:
    """A ServiceEntry: ``api.example.com``, TLS on 443, at 192.0.2.10."""
    return resource(
        "ServiceEntry",
        name,
        {
            "hosts": ["api.example.com"],
            "resolution": "STATIC",
            "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
            "endpoints": [{"address": "192.0.2.10"}],
            **spec,
        },
        namespace,
    )


def peer(name: str = "default", mode: str = "STRICT", namespace: str = "shop", **spec: Any) -> Object:
    """A PeerAuthentication."""
    return resource("PeerAuthentication", name, {"mtls": {"mode": mode}, **spec}, namespace)
