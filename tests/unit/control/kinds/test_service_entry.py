"""ServiceEntry: what is taken, what is refused and in which words, and which addresses it is given."""

from __future__ import annotations

from typing import Any

import pytest

from control.kinds.base.mesh import Mesh
from control.kinds.base.model import Resource
from control.registry.errors import Invalid
from control.registry.parse import parse
from control.registry.registry import Registry
from control.watch.projection import project
from control.wire.discovery import AppProtocol, ExternalEndpoint, Resolution, Service
from tests.support.mesh import entry, make_registry, node, service, workload

MESH = Mesh(trust_domain="mesh.internal", cluster="lab", roots=("PEM",))


@pytest.fixture
def registry() -> Registry:
    registry, _ = make_registry()
    registry.apply([node()])
    return registry


def told(registry: Registry) -> dict[str, Service]:
    """What agents are told of hosts outside the mesh, by host."""
    objects = project(registry.catalogue(), MESH).values()
    return {o.hostname: o for o in objects if isinstance(o, Service) and o.external is not None}


def refused(registry: Registry, *values: Any) -> list[str]:
    with pytest.raises(Invalid) as error:
        registry.apply(list(values))
    return [str(fault) for fault in error.value.faults]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hosts": ["*.example.com"]}, "is a wildcard"),
        ({"hosts": ["*"]}, "is a wildcard"),
        ({"hosts": []}, "at least one"),
        ({"hosts": ["a.example", "A.example."]}, "listed twice"),
        ({"hosts": ["192.0.2.1"]}, "is an address"),
        ({"hosts": ["2001:db8::1"]}, "is an address"),
        ({"hosts": ["bad host"]}, "is not a DNS name"),
        ({"hosts": ["-bad.example"]}, "is not a DNS name"),
        ({"hosts": ["a" * 64 + ".example"]}, "is not a DNS name"),
        ({"hosts": ["bücher.example"]}, "xn--"),
        ({"hosts": ["localhost"]}, "loopback"),
        ({"endpoints": []}, "STATIC needs endpoints"),
        ({"endpoints": [{"address": "db.example.com"}]}, "looks nothing up"),
        ({"endpoints": [{"address": "127.0.0.1"}]}, "loopback"),
        ({"endpoints": [{"address": "::"}]}, "does not name one host"),
        ({"endpoints": [{"address": "192.0.2.1", "ports": {"nope": 1}}]}, "nope"),
        ({"resolution": "NONE"}, "STATIC"),
        ({"location": "MESH_INTERNAL"}, "MESH_EXTERNAL"),
        ({"ports": []}, "at least one"),
        ({"ports": [{"number": 1, "name": "a"}, {"number": 1, "name": "b"}]}, "port 1 is listed twice"),
        ({"ports": [{"number": 1, "name": "a"}, {"number": 2, "name": "a"}]}, "port name a is listed twice"),
        ({"ports": [{"number": 53, "name": "dns", "protocol": "UDP"}]}, "TCP"),
        ({"workloadSelector": {}}, "selected by a Service"),
        ({"subjectAltNames": []}, "program itself"),
    ],
)
def test_what_cannot_be_is_refused_with_words(change: dict[str, Any], words: str) -> None:
    found = parse(entry(**change))
    assert isinstance(found, list)
    assert any(words in str(fault) for fault in found), found


def test_istios_document_is_taken() -> None:
    value = {**entry(location="MESH_EXTERNAL"), "apiVersion": "networking.istio.io/v1"}
    assert isinstance(parse(value), Resource)


def test_each_host_has_a_name_and_addresses_of_its_own(registry: Registry) -> None:
    registry.apply([entry(hosts=["B.Example.com.", "a.example.com"])])
    found = told(registry)
    assert set(found) == {"a.example.com", "b.example.com"}
    addresses = [address for each in found.values() for address in each.addresses]
    assert len(set(addresses)) == 4 and all(a.startswith(("240.240.", "fd6d:6573:68:")) for a in addresses)
    made = found["a.example.com"]
    assert made.uid.startswith("shop/pay@") and made.uid.endswith("/a.example.com")
    assert made.ports[0].protocol is AppProtocol.TLS and made.endpoints == ()
    assert made.external is not None and made.external.endpoints == (ExternalEndpoint(address="192.0.2.10"),)


def test_a_host_keeps_its_addresses_as_the_entry_changes(registry: Registry) -> None:
    registry.apply([entry(hosts=["a.example.com", "b.example.com"])])
    before = told(registry)
    registry.apply([entry(hosts=["b.example.com", "c.example.com"], endpoints=[{"address": "192.0.2.11"}])])
    after = told(registry)
    assert after["b.example.com"].addresses == before["b.example.com"].addresses
    assert not set(after["c.example.com"].addresses) & set(before["a.example.com"].addresses), "they rest first"
    assert (
        registry.apply([entry(hosts=["b.example.com", "c.example.com"], endpoints=[{"address": "192.0.2.11"}])])[
            0
        ].action
        == "unchanged"
    )


def test_dns_looks_the_host_up_unless_it_says_what_else(registry: Registry) -> None:
    registry.apply([entry(resolution="DNS", endpoints=[])])
    external = told(registry)["api.example.com"].external
    assert external is not None and external.resolution is Resolution.DNS
    assert external.endpoints == (ExternalEndpoint(address="api.example.com"),)
    other = [{"address": "Eu.Example.com", "ports": {"tls": 8443}}, {"address": "::ffff:192.0.2.1"}]
    registry.apply([entry(resolution="DNS", endpoints=other)])
    external = told(registry)["api.example.com"].external
    assert external is not None and external.endpoints == (
        ExternalEndpoint(address="eu.example.com", ports={"tls": 8443}), ExternalEndpoint(address="192.0.2.1"),
    )  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_a_host_belongs_to_one_entry(registry: Registry, together: bool) -> None:
    first, second = entry(), entry("other", "bank", hosts=["x.example.com", "api.example.com"])
    if not together:
        registry.apply([first])
    (told,) = refused(registry, *([first, second] if together else [second]))
    for words in ("ServiceEntry shop/pay", "ServiceEntry bank/other", "api.example.com"):
        assert words in told


def test_a_name_of_the_mesh_is_the_meshs(registry: Registry) -> None:
    (told,) = refused(registry, service("web"), entry(hosts=["web.shop.mesh.internal"]))
    for words in ("ServiceEntry shop/pay", "Service shop/web", "web.shop.mesh.internal"):
        assert words in told
    for host in ("nobody.shop.mesh.internal", "mesh.internal"):
        (told,) = refused(registry, entry(hosts=[host]))
        assert "the mesh's own" in told and "ServiceEntry shop/pay" in told
    registry.apply([entry(hosts=["notmesh.internal"])])
    (told,) = refused(registry, entry("again", hosts=["notmesh.internal"]), service("web"))
    assert "ServiceEntry shop/again" in told


def test_virtual_addresses_are_nobodys_endpoint(registry: Registry) -> None:
    registry.apply([service("web", addresses=["240.240.7.7"])])
    (told,) = refused(registry, entry(endpoints=[{"address": "240.240.7.7"}]))
    assert "ServiceEntry shop/pay" in told and "Service shop/web" in told
    registry.apply([entry()])
    taken = told_addresses(registry)
    (told,) = refused(registry, service("thief", addresses=[taken[0]]))
    assert "ServiceEntry shop/pay" in told and "Service shop/thief" in told


def told_addresses(registry: Registry) -> tuple[str, ...]:
    return told(registry)["api.example.com"].addresses


def test_an_entry_of_a_services_name_is_another_object(registry: Registry) -> None:
    """Made in one request: the revision alone would not tell their uids apart."""
    registry.apply([service("pay"), entry("pay"), workload("pay")])
    objects = project(registry.catalogue(), MESH)
    assert len([key for key in objects if key[0] == "service"]) == 2


def test_labels_say_what_becomes_of_idle_connections(registry: Registry) -> None:
    value = entry()
    value["metadata"]["labels"] = {"nodemesh.io/idle-timeout": "90s"}
    registry.apply([value])
    assert told(registry)["api.example.com"].idle_timeout == 90
    value["metadata"]["labels"] = {"nodemesh.io/idle-timeout": "soon"}
    assert "not a duration" in refused(registry, value)[0]
