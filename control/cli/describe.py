"""``meshctl describe``: a resource together with what it stands in relation to."""

from __future__ import annotations

from collections.abc import Callable

import click

from control.cli import tables
from control.cli.client import Client
from control.cli.kinds import Kind, Object
from control.cli.resources import KIND, find, namespace_option
from control.wire.ids import ROOT_NAMESPACE, SpiffeId

Section = tuple[str, list[str]]


@click.command()
@click.argument("kind", type=KIND)
@click.argument("name")
@namespace_option
@click.pass_obj
def describe(client: Client, kind: Kind, name: str, namespace: str | None) -> None:
    """Everything about one resource, and what it works together with."""
    item = find(client, kind, name, namespace)
    tables.write_yaml([item])
    for title, lines in _related(client, kind, item):
        click.echo(f"\n{title}:")
        for line in lines or ["(none)"]:
            click.echo(f"  {line}")


def _related(client: Client, kind: Kind, item: Object) -> list[Section]:
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    if kind.name == "Node":
        placed = [w for w in client.get("/v1/workloads")["items"] if w["spec"]["node"] == metadata["name"]]
        return [("agent", [_agent(client, metadata["name"])]), ("workloads on it", [_place(w) for w in placed])]
    if kind.name in ("MeshConfig", "ServiceEntry"):
        return []
    if kind.name == "Workload":
        return _of_workload(client, item)
    selector = item["spec"].get("selector") or {}
    wanted = selector if kind.name == "Service" else selector.get("matchLabels") or {}
    everywhere = kind.name != "Service" and namespace == ROOT_NAMESPACE
    workloads = client.get("/v1/workloads", namespace=None if everywhere else namespace)["items"]
    chosen = [_place(w) for w in workloads if _selects(wanted, w["metadata"].get("labels") or {})]
    return [("workloads that it selects", chosen)]


def _of_workload(client: Client, item: Object) -> list[Section]:
    namespace, labels = item["metadata"]["namespace"], item["metadata"].get("labels") or {}
    spec = item["spec"]
    domain = client.get("/v1/status")["trustDomain"]
    services = client.get("/v1/services", namespace=namespace)["items"]
    return [
        ("identity", [str(SpiffeId.workload(domain, namespace, spec.get("serviceAccount", "default")))]),
        ("agent of its node", [_agent(client, spec["node"])]),
        ("services that select it", [_place(s) for s in services if _selects(s["spec"]["selector"], labels)]),
        ("policies that select it", _policies(client, "authorizationpolicies", namespace, labels)),
        ("peer authentications that select it", _policies(client, "peerauthentications", namespace, labels)),
        ("egress policies that select it", _policies(client, "egresspolicies", namespace, labels)),
    ]


def _policies(client: Client, plural: str, namespace: str, labels: dict[str, str]) -> list[str]:
    """Those of the namespace and those for the whole mesh; what they do beside their names."""
    lines = []
    for policy in client.get(f"/v1/{plural}")["items"]:
        spec, home = policy["spec"], policy["metadata"]["namespace"]
        wanted = (spec.get("selector") or {}).get("matchLabels") or {}
        if home in (namespace, ROOT_NAMESPACE) and _selects(wanted, labels):
            lines.append(f"{_place(policy)} ({_DOES[plural](spec)})")
    return lines


def _mode(spec: Object) -> str:
    ports = spec.get("portLevelMtls") or {}
    modes = [str((spec.get("mtls") or {}).get("mode", "UNSET"))]
    return ", ".join(modes + [f"port {port} {mtls.get('mode', 'UNSET')}" for port, mtls in ports.items()])


_DOES: dict[str, Callable[[Object], str]] = {
    "authorizationpolicies": lambda spec: str(spec.get("action", "ALLOW")),
    "peerauthentications": _mode,
    "egresspolicies": lambda spec: str(spec["mode"]),
}


def _agent(client: Client, node: str) -> str:
    states = client.get("/v1/nodes/status")
    state = next((s for s in states["items"] if s["node"] == node), None)
    if state is None or (state["last_seen"] is None and not state["watching"]):
        return f"{node}: never seen since control started"
    connection = "connected" if state["watching"] else "disconnected"
    return f"{node}: {connection}, {states['revision'] - (state['revision'] or 0)} revisions behind"


def _selects(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _place(item: Object) -> str:
    metadata = item["metadata"]
    node = item["spec"].get("node")
    return f"{metadata['namespace']}/{metadata['name']}" + (f" on {node}" if node else "")
