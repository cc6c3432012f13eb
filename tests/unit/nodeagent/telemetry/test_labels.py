from __future__ import annotations

from dataclasses import replace

from control.wire.discovery import AppProtocol
from nodeagent.telemetry.labels import UNKNOWN, label_set, namespace_of
from tests.support.flows import record
from tests.support.objects import workload

EVERY_LABEL = {
    "reporter", "request_protocol", "connection_security_policy",
    "destination_service", "destination_service_name", "destination_service_namespace",
    *(
        f"{side}_{name}"
        for side in ("source", "destination")
        for name in (
            "workload", "workload_namespace", "canonical_service", "canonical_revision", "principal", "app", "version",
            "cluster",
        )
    ),
}  # fmt: skip


def test_every_label_is_there_whatever_is_known() -> None:
    nothing = record(source=None, source_principal=None, destination=None, destination_principal=None, service=None)
    assert set(label_set(record())) == EVERY_LABEL
    assert set(label_set(nothing)) == EVERY_LABEL


def test_nothing_that_the_mesh_knows_is_unknown() -> None:
    full = replace(workload(), version="v1", cluster="east")
    labels = label_set(record(source=full, destination=full))
    assert UNKNOWN not in labels.values()
    assert labels["destination_service"] == "web.shop.mesh.internal"
    assert labels["source_principal"] == "spiffe://mesh.internal/ns/shop/sa/client"


def test_tcp_series_are_tcp_whatever_the_port_is_declared_as() -> None:
    assert label_set(record(protocol=AppProtocol.HTTP))["request_protocol"] == "tcp"


def test_a_proved_identity_tells_the_namespace_of_a_workload_that_is_not_known() -> None:
    labels = label_set(record(source=None, source_principal="spiffe://mesh.internal/ns/pay/sa/bill"))
    assert labels["source_workload_namespace"] == "pay"
    assert labels["source_workload"] == UNKNOWN


def test_a_workload_reached_by_its_own_address_is_named_by_its_canonical_service() -> None:
    labels = label_set(record(service=None))
    assert (labels["destination_service_name"], labels["destination_service_namespace"]) == ("web", "shop")


def test_no_namespace_in_what_is_no_workload_identity() -> None:
    for principal in (None, "", "nonsense", "spiffe://mesh.internal/node/a"):
        assert namespace_of(principal) == ""
