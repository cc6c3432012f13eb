"""Every mistake is named by its path, in words that say what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from control.kinds.base.fault import Fault
from control.kinds.base.model import Resource
from control.registry.parse import parse
from tests.support.mesh import Object, mesh_config, node, peer, policy, resource, service, workload

POD = "0ba7f3c2-6a1e-4d1c-9f8e-2c1f3a4b5d6e"


def faults(value: Any) -> list[tuple[str, str]]:
    found = parse(value)
    assert isinstance(found, list), found
    return [(fault.field, fault.message) for fault in found]


def good(value: Any) -> Resource[Any]:
    found = parse(value)
    assert not isinstance(found, list), found
    return found


def rule(source: Object | None = None, operation: Object | None = None, **extra: Any) -> Object:
    return policy(
        rules=[
            {
                **({"from": [{"source": source}]} if source is not None else {}),
                **({"to": [{"operation": operation}]} if operation is not None else {}),
                **extra,
            }
        ]
    )


SOURCE = "spec.rules[0].from[0].source"
OPERATION = "spec.rules[0].to[0].operation"


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        (None, "", "found nothing"),
        ([], "", "found list"),
        ({"apiVersion": "nodemesh/v1"}, "kind", "missing"),
        ({"kind": "Pod"}, "kind", "known kinds"),
        ({"kind": ["Node"]}, "kind", "known kinds"),
        ({**node(), "apiVersion": "v1"}, "apiVersion", "write nodemesh/v1"),
        ({**node(), "apiVersion": "security.istio.io/v1"}, "apiVersion", "write nodemesh/v1"),
        ({**policy(), "apiVersion": "x"}, "apiVersion", "security.istio.io/v1"),
        ({**node(), "statuss": {}}, "statuss", "unknown field"),
        ({k: v for k, v in node().items() if k != "metadata"}, "metadata", "missing"),
        (resource("Node", "A", {"addresses": ["10.0.0.1"]}, None), "metadata.name", "lower-case"),
        (resource("Node", "a" * 64, {"addresses": ["10.0.0.1"]}, None), "metadata.name", "63"),
        (resource("Node", "status", {"addresses": ["10.0.0.1"]}, None), "metadata.name", "reserved"),
        (mesh_config("other"), "metadata.name", "there is one MeshConfig; name it 'default'"),
        (resource("MeshConfig", "default", {}, "shop"), "metadata.namespace", "has no namespace"),
        (mesh_config(idleTimeout="soon"), "spec.idleTimeout", "write for example 90s, 15m, 1h or 7d, or off"),
        (mesh_config(idleTimeout="366d"), "spec.idleTimeout", "more than 365d"),
        (mesh_config(splice="off"), "spec.splice", "valid boolean"),
        (mesh_config(spliced=False), "spec.spliced", "unknown field"),
        (resource("Node", "n", {"addresses": ["10.0.0.1"]}, "shop"), "metadata.namespace", "no namespace"),
        (resource("Node", "n", {"addresses": []}, None), "spec.addresses", "empty"),
        (resource("Node", "n", {"addresses": ["host"]}, None), "spec.addresses[0]", "not an IPv4 or IPv6"),
        (resource("Node", "n", {"addresses": ["127.0.0.2"]}, None), "spec.addresses[0]", "loopback"),
        (resource("Node", "n", {"addresses": ["10.0.0.1", "::1"]}, None), "spec.addresses[1]", "loopback"),
        (resource("Node", "n", {"addresses": ["::ffff:127.0.0.1"]}, None), "spec.addresses[0]", "loopback"),
        (resource("Node", "n", {"addresses": ["0.0.0.0"]}, None), "spec.addresses[0]", "unspecified"),
        (resource("Node", "n", {"addresses": ["ff02::1"]}, None), "spec.addresses[0]", "multicast"),
        (resource("Node", "n", {"addresses": ["fe80::1"]}, None), "spec.addresses[0]", "link-local"),
        (resource("Node", "n", {"addresses": ["10.0.0.1", "::ffff:10.0.0.1"]}, None), "spec.addresses", "twice"),
        (workload(labels={"a b": "x"}), "metadata.labels", "label key"),
        (workload(labels={"app": "x/y"}), "metadata.labels", "label value"),
        (workload(labels={"app": 1}), "metadata.labels.app", "valid string"),  # type: ignore[dict-item]
        (workload(ports=[15008]), "spec.ports[0]", "agents themselves"),
        (workload(ports=[80, 15001]), "spec.ports[1]", "agents themselves"),
        (workload(ports=[15006]), "spec.ports[0]", "agents themselves"),
        (workload(ports=[0]), "spec.ports[0]", "greater than or equal to 1"),
        (workload(ports=[65536]), "spec.ports[0]", "65535"),
        (workload(ports=["80"]), "spec.ports[0]", "integer"),
        (workload(ports=[True]), "spec.ports[0]", "integer"),
        (workload(ports=[80, 80]), "spec.ports", "twice"),
        (workload(addresses=["127.0.0.1"]), "spec.addresses[0]", "appAddress"),
        (workload(appAddress="0.0.0.0"), "spec.appAddress", "not an address to connect to"),
        (workload(serviceAccount="a/b"), "spec.serviceAccount", "service account"),
        (workload(serviceAccount=""), "spec.serviceAccount", "service account"),
        (workload(selectors={}), "spec.selectors", "exactly one"),
        (workload(selectors={"systemdUnit": "a.service", "cgroupPath": "/a"}), "spec.selectors", "exactly one"),
        (workload(selectors={"systemdUnit": "nginx"}), "spec.selectors.systemdUnit", "suffix"),
        (workload(selectors={"systemdUnit": "../x.service"}), "spec.selectors.systemdUnit", "unit name"),
        (workload(selectors={"cgroupPath": "shop/web"}), "spec.selectors.cgroupPath", "absolute"),
        (workload(selectors={"cgroupPath": "/"}), "spec.selectors.cgroupPath", "below the root"),
        (workload(selectors={"cgroupPath": "/a/../b"}), "spec.selectors.cgroupPath", "'..'"),
        (workload(selectors={"cgroupPath": "/a/"}), "spec.selectors.cgroupPath", "trailing"),
        (workload(selectors={"podUid": POD, "containerId": "a1"}), "spec.selectors", "exactly one"),
        (workload(selectors={"containerLabels": {}}), "spec.selectors", "exactly one"),
        (workload(selectors={"containerId": "../x"}), "spec.selectors.containerId", "not a container's id"),
        (workload(selectors={"containerLabels": {"": "x"}}), "spec.selectors.containerLabels", "have a name"),
        (workload(selectors={"containerLabels": {"a": "x" * 600}}), "spec.selectors.containerLabels", "512"),
        (workload(selectors={"podUid": POD[:-1]}), "spec.selectors.podUid", "not a pod's UID"),
        (workload(selectors={"podUid": POD, "uid": 5}), "spec.selectors", "goes with systemdUnit or cgroupPath"),
        (workload(selectors={"cgroupPath": "/a", "uid": -1}), "spec.selectors.uid", "0"),
        (workload(selectors={"uid": 5}), "spec.selectors", "exactly one"),
        (workload(selectors={"pid": 1}), "spec.selectors.pid", "unknown field"),
        (service(selector={}), "spec.selector", "at least one"),
        (service(ports=[]), "spec.ports", "empty"),
        (service(ports=[{"port": 15008}]), "spec.ports[0]", "agents themselves"),
        (service(ports=[{"port": 80, "targetPort": 15006}]), "spec.ports[0].targetPort", "agents themselves"),
        (service(ports=[{"port": 80, "protocol": "UDP"}]), "spec.ports[0].protocol", "TCP"),
        (service(ports=[{"port": 80, "appProtocol": "kafka"}]), "spec.ports[0].appProtocol", "grpc"),
        (service(ports=[{"port": 80}, {"port": 80, "name": "b"}]), "spec", "port 80 is listed twice"),
        (service(ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]), "spec", "port name a"),
        (service(addresses=["::1"]), "spec.addresses[0]", "loopback"),
        (rule({"principalz": ["a"]}), f"{SOURCE}.principalz", "unknown field"),
        (rule({"principals": []}), f"{SOURCE}.principals", "empty"),
        (rule({"principals": ["spiffe://mesh.internal/ns/a/sa/b"]}), f"{SOURCE}.principals[0]", "without spiffe://"),
        (rule({"principals": ["ok/ns/a/sa/b", "a*b"]}), f"{SOURCE}.principals[1]", "'*'"),
        (rule({"principals": ["**"]}), f"{SOURCE}.principals[0]", "'*'"),
        (rule({"principals": ["*/ns/*"]}), f"{SOURCE}.principals[0]", "'*'"),
        (rule({"principals": ["web"]}), f"{SOURCE}.principals[0]", "match nobody"),
        (rule({"namespaces": ["a*"]}), f"{SOURCE}.namespaces[0]", "not a name"),
        (rule({"ipBlocks": ["10.0.0.0/33"]}), f"{SOURCE}.ipBlocks[0]", "prefix"),
        (rule({}), SOURCE, "match everybody"),
        (rule(None, {}), OPERATION, "match everybody"),
        (rule(None, {"ports": ["http"]}), f"{OPERATION}.ports[0]", "not a port"),
        (rule(None, {"ports": ["0"]}), f"{OPERATION}.ports[0]", "not a port"),
        (rule(None, {"methods": ["GET"]}), f"{OPERATION}.methods", "L4 only"),
        (rule(None, {"notPaths": ["/x"]}), f"{OPERATION}.notPaths", "L4 only"),
        (rule(None, {"hosts": ["x"]}), f"{OPERATION}.hosts", "L4 only"),
        (rule({"requestPrincipals": ["*"]}), f"{SOURCE}.requestPrincipals", "L4 only"),
        (rule({"principals": ["*"]}, when=[{"key": "request.headers[x]"}]), "spec.rules[0].when", "L4 only"),
        (policy(rules=[{"from": []}]), "spec.rules[0].from", "empty"),
        (policy(rules=[{"to": []}]), "spec.rules[0].to", "empty"),
        (policy(rules=[{"from": [{}]}]), "spec.rules[0].from[0].source", "missing"),
        (policy(action="AUDIT"), "spec.action", "ALLOW"),
        (policy(targetRefs=[]), "spec.targetRefs", "not supported"),
        (policy(selector={"app": "web"}), "spec.selector.app", "unknown field"),
        (peer(mode="strict"), "spec.mtls.mode", "STRICT"),
        (peer(portLevelMtls={"8080": {"mode": "DISABLE"}}), "spec", "needs a selector"),
        (
            peer(selector={"matchLabels": {"a": "b"}}, portLevelMtls={"http": {}}),
            "spec.portLevelMtls.http",
            "not a port",
        ),
        (
            peer(selector={"matchLabels": {"a": "b"}}, portLevelMtls={"80": {"mode": "off"}}),
            "spec.portLevelMtls.80.mode",
            "STRICT",
        ),
        (workload(probePorts=[15008]), "spec.probePorts[0]", "agents themselves"),
    ],
)
def test_the_field_at_fault_is_named(value: Any, field: str, words: str) -> None:
    found = faults(value)
    assert [f for f, _ in found] == [field]
    assert words in found[0][1]


def test_all_mistakes_of_an_object_are_told_together_with_its_name() -> None:
    found = parse(workload(ports=[15001], addresses=["::1"], selectors={}), 3)
    assert isinstance(found, list)
    assert [(f.field, f.index, f.subject) for f in found] == [
        ("spec.addresses[0]", 3, "Workload shop/web-0"),
        ("spec.ports[0]", 3, "Workload shop/web-0"),
        ("spec.selectors", 3, "Workload shop/web-0"),
    ]
    assert str(Fault("m", "f", 0, "s")) == "s: f: m"


def test_a_list_with_a_wrong_entry_is_not_called_empty_too() -> None:
    assert [f for f, _ in faults(rule({"principals": ["web"]}, {"ports": ["x"]}))] == [
        f"{SOURCE}.principals[0]",
        f"{OPERATION}.ports[0]",
    ]


def test_the_namespace_defaults_and_unnamed_objects_are_still_named() -> None:
    value = workload()
    del value["metadata"]["namespace"]
    assert good(value).ref == "default/web-0"
    found = parse({"kind": "Service", "apiVersion": "nodemesh/v1", "metadata": {}})
    assert isinstance(found, list)
    assert found[0].subject == "Service default/without a name"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("10.0.0.5/8", "10.0.0.0/8"),
        ("10.0.0.5", "10.0.0.5/32"),
        ("fd00::1", "fd00::1/128"),
        ("FD00::/16", "fd00::/16"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.5", "10.0.0.5/32"),
        ("::/0", "::/0"),
    ],
)
def test_ip_blocks_are_canonical(written: str, kept: str) -> None:
    assert good(rule({"ipBlocks": [written]})).document()["spec"]["rules"][0]["from"][0]["source"]["ipBlocks"] == [kept]


def test_addresses_are_canonical_in_all_families() -> None:
    made = good(workload(addresses=["::ffff:10.0.0.9", "FD00:0::9", "192.0.2.1"], appAddress="::ffff:127.0.0.1"))
    assert made.spec.addresses == ("10.0.0.9", "fd00::9", "192.0.2.1")
    assert made.spec.app_address == "127.0.0.1"


def test_loopback_is_welcome_as_app_address() -> None:
    for address in ("127.0.0.1", "::1"):
        assert good(workload(appAddress=address))


def test_service_ports_default_to_themselves() -> None:
    made = good(service(ports=[{"port": 6379}, {"port": 80, "targetPort": 8080, "appProtocol": "http"}]))
    assert [(p.label, p.target) for p in made.spec.ports] == [("tcp-6379", 6379), ("http-80", 8080)]


def test_istio_documents_are_taken_as_they_are() -> None:
    value = {**rule({"principals": ["*"]}, {"ports": ["80", 81]}), "apiVersion": "security.istio.io/v1"}
    written = good(value).document()
    assert written["spec"]["rules"][0]["to"][0]["operation"]["ports"] == ["80", "81"]
    assert list(written) == ["apiVersion", "kind", "metadata", "spec"]
    assert good({k: v for k, v in policy().items() if k != "spec"})
    assert good(policy(action="DENY", rules=[{}])).document()["spec"]["rules"] == [{}]
