"""What others see: the wire between the nodes, the metrics, the access log."""

from __future__ import annotations

import pytest

from tests.netns.capture import TLS_1_3, Capture
from tests.netns.lab import eventually, identity
from tests.netns.reading import Sample
from tests.netns.servers import echo, read_all, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Behind, Family, Shop
from tests.netns.tunnel import server_certificate, spiffe_ids

MARKER = b"nobody-on-the-way-may-read-this/"


def test_the_wire_shows_tls_1_3_and_nothing_of_the_content(shop: Shop, family: Family) -> None:
    with Capture(shop.mesh.a.outside) as capture, shop.server.serve(echo):
        # a source of its own: the tunnel is opened while we watch
        with shop.dial(shop.server, family, source=shop.other) as connection:
            assert roundtrip(connection, MARKER * 1000) == MARKER * 1000
        with shop.server.node.outside.listen(9999) as listener:
            address = family.form(shop.server.node.v4, shop.server.node.v6)
            with shop.mesh.a.outside.connect(address, 9999) as plain:
                accepted, _ = listener.accept()
                plain.sendall(b"in-the-clear/" * 100)
                accepted.close()
    assert capture.drops == 0
    assert capture.contains(b"in-the-clear/"), "the search finds what is there"
    assert capture.tunnel_segments(), "the content did cross this link"
    assert not capture.contains(MARKER)
    assert set(capture.tls_versions()) <= {TLS_1_3}


def test_a_new_tunnel_is_tls_1_3_with_the_certificate_of_the_workload(shop: Shop, family: Family) -> None:
    address = family.form(shop.mesh.b.v4, shop.mesh.b.v6)
    with Capture(shop.mesh.a.outside) as capture:
        shown = server_certificate(shop.mesh.a.outside, address, "server.shop.workload.mesh.internal")
    assert capture.tls_versions() == [TLS_1_3]
    assert spiffe_ids(shown) == [identity("server")]


def test_both_ends_are_told_apart_by_their_workloads_identities(shop: Shop, behind: Behind, family: Family) -> None:
    positions = {node.name: node.access_position() for node in shop.mesh.nodes}
    with behind.serve(echo), shop.dial(behind, family) as connection:
        port = connection.getsockname()[1]
        assert roundtrip(connection, b"x" * 1000) == b"x" * 1000

    def lines(direction: str) -> list[dict[str, str]]:
        node = shop.mesh.a if direction == "outbound" else behind.node
        found = node.access(since=positions[node.name], direction=direction, dst_workload=behind.name)
        return [line for line in found if line["src.addr"].endswith(f":{port}")]

    eventually(lambda: lines("outbound"), what="the source's line")
    (source,) = lines("outbound")
    assert (source["src.workload"], source["src.namespace"]) == ("client", "shop")
    assert source["src.identity"] == identity("client")
    assert source["dst.identity"] == identity(behind.name)
    assert source["dst.service"].startswith(f"{behind.name}.shop")
    assert source["dst.addr"].rpartition(":")[2] == str(PORT)
    assert (source["bytes_sent"], source["bytes_recv"]) == ("1000", "1000")
    assert (source["reason"], source["error"]) == ("ok", "-")
    if behind.node is shop.mesh.b:
        assert source["dst.hbone_addr"].endswith(":15008")

    eventually(lambda: lines("inbound"), what="the destination's line")
    (destination,) = lines("inbound")
    assert destination["traceparent"] == source["traceparent"]
    assert destination["src.identity"] == identity("client")
    assert destination["src.workload"] == "client"
    assert destination["dst.addr"].rpartition(":")[2] == str(TARGET_PORT)
    assert (destination["bytes_sent"], destination["bytes_recv"]) == ("1000", "1000")


WANTED = {
    "source_workload": "client",
    "source_workload_namespace": "shop",
    "source_canonical_service": "client",
    "source_canonical_revision": "v1",
    "source_app": "client",
    "source_version": "v1",
    "source_principal": identity("client"),
    "destination_workload_namespace": "shop",
    "destination_canonical_revision": "v1",
    "destination_service_namespace": "shop",
    "request_protocol": "tcp",
    "response_flags": "-",
}


def _value(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@pytest.mark.parametrize("reporter", ["source", "destination"])
def test_metrics_carry_the_labels_that_dashboards_read(shop: Shop, behind: Behind, reporter: str) -> None:
    node = shop.mesh.a if reporter == "source" else behind.node
    labels = WANTED | {
        "reporter": reporter,
        "destination_workload": behind.name,
        "destination_service_name": behind.name,
        "destination_canonical_service": behind.name,
        "destination_principal": identity(behind.name),
        "connection_security_policy": "mutual_tls" if behind.node is shop.mesh.b else "none",
    }
    names = ("opened", "closed")
    before = node.metrics()
    with behind.serve(echo), shop.dial(behind) as connection:
        assert roundtrip(connection, b"m" * 5000) == b"m" * 5000

    def counted() -> bool:
        after = node.metrics()
        return all(
            _value(after, f"istio_tcp_connections_{name}_total", labels)
            == _value(before, f"istio_tcp_connections_{name}_total", labels) + 1
            for name in names
        ) and all(
            _value(after, f"istio_tcp_{name}_bytes_total", labels)
            >= _value(before, f"istio_tcp_{name}_bytes_total", labels) + 5000
            for name in ("sent", "received")
        )

    eventually(counted, what=f"counted with {labels}")


def test_failed_connections_are_counted_with_a_flag(shop: Shop, behind: Behind) -> None:
    name = "istio_tcp_connections_failed_total"
    labels = {"source_workload": "client", "reporter": "source"}
    before = _value(shop.mesh.a.metrics(), name, labels)
    with pytest.raises(ConnectionResetError), shop.dial(behind) as connection:
        read_all(connection)
    eventually(lambda: _value(shop.mesh.a.metrics(), name, labels) == before + 1)
    flags = {s.labels["response_flags"] for s in shop.mesh.a.metrics() if s.name == name}
    assert "CONNECT" in flags


def test_no_label_is_an_address_or_a_port(shop: Shop) -> None:
    for node in shop.mesh.nodes:
        for sample in node.metrics():
            if sample.name.startswith("istio_"):
                assert not [v for v in sample.labels.values() if "10.77." in v or "fd77:" in v or "240.240." in v], (
                    sample
                )


def test_nothing_unknown_that_the_mesh_knows(shop: Shop, behind: Behind) -> None:
    """Of a captured connection everything is known at both ends."""
    name = "istio_tcp_connections_opened_total"
    nodes = {shop.mesh.a, behind.node}

    def opened() -> dict[tuple[tuple[str, str], ...], float]:
        samples = [sample for node in nodes for sample in node.metrics() if sample.name == name]
        return {tuple(sorted(sample.labels.items())): sample.value for sample in samples}

    before = opened()
    with behind.serve(echo), shop.dial(behind) as connection:
        assert roundtrip(connection, b"known") == b"known"

    def counted() -> list[dict[str, str]]:
        more = [dict(labels) for labels, value in opened().items() if value > before.get(labels, 0)]
        return more if len(more) >= 2 else []

    for labels in eventually(counted, what="both ends count it"):
        assert "unknown" not in labels.values(), labels
