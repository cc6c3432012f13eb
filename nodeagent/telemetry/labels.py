"""The labels of Istio's TCP series, from what is known of a connection. Pure; one dict for each distinct pair of
workloads.

A value that nobody in the mesh knows is ``unknown``, as in Istio. What can be told from a proven identity (its
namespace, its service account) is told even where the workload itself is not known: a client behind a foreign agent,
for example.
"""

from __future__ import annotations

from control.wire.discovery import AppProtocol, Service, Workload
from control.wire.ids import SpiffeId, SpiffeIdError
from nodeagent.telemetry.flow import FlowRecord

UNKNOWN = "unknown"
NO_FLAG = "-"
WORKLOAD_LABELS = (
    "workload", "workload_namespace", "canonical_service", "canonical_revision",
    "principal", "app", "version", "cluster",
)  # fmt: skip


def label_set(record: FlowRecord) -> dict[str, str]:
    """Every label of the record's series but ``response_flags``, which is known only when the connection ends."""
    labels = {"reporter": record.reporter.value}
    labels |= _workload_labels("source", record.source, record.source_principal)
    labels |= _workload_labels("destination", record.destination, record.destination_principal)
    labels |= _service_labels(record.service, record.destination)
    labels["request_protocol"] = AppProtocol.TCP.value  # whatever the port is declared as: bytes are what is counted
    labels["connection_security_policy"] = record.security.value
    return labels


def _workload_labels(side: str, workload: Workload | None, principal: str | None) -> dict[str, str]:
    if workload is None:
        values = dict.fromkeys(WORKLOAD_LABELS, UNKNOWN)
        values["workload_namespace"] = namespace_of(principal) or UNKNOWN
        values["principal"] = principal or UNKNOWN
    else:
        values = {
            "workload": workload.name,
            "workload_namespace": workload.namespace,
            "canonical_service": workload.canonical_service or UNKNOWN,
            "canonical_revision": workload.canonical_revision or UNKNOWN,
            "principal": principal or UNKNOWN,
            "app": workload.app or UNKNOWN,
            "version": workload.version or UNKNOWN,
            "cluster": workload.cluster or UNKNOWN,
        }
    return {f"{side}_{name}": value for name, value in values.items()}


def _service_labels(service: Service | None, destination: Workload | None) -> dict[str, str]:
    """Without a service (none leads to this port of the workload) the destination's canonical service names it."""
    if service is not None:
        host, name, namespace = service.hostname, service.name, service.namespace
    elif destination is not None:
        host, name, namespace = UNKNOWN, destination.canonical_service or UNKNOWN, destination.namespace
    else:
        host = name = namespace = UNKNOWN
    return {
        "destination_service": host,
        "destination_service_name": name,
        "destination_service_namespace": namespace,
    }


def namespace_of(principal: str | None) -> str:
    """The namespace in a workload's SPIFFE ID; empty if there is none."""
    if principal is None:
        return ""
    try:
        return SpiffeId.parse(principal).namespace
    except SpiffeIdError:
        return ""
