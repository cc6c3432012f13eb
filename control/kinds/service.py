"""Service: a name and virtual addresses before a set of workloads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from control.kinds import workload
from control.kinds.base.cells import joined, pairs
from control.kinds.base.fault import Fault
from control.kinds.base.fields import (
    MAX_LIST,
    Labels,
    MeshAddress,
    MeshAddresses,
    Name,
    Port,
    TargetPort,
    check_port_names,
    check_target_port,
)
from control.kinds.base.flows import connect_timeout_of, idle_timeout_of, splice_of
from control.kinds.base.kind import Kind, Proposal, Refinement, TakeAddresses, View
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import Model, Resource
from control.kinds.base.relations import Object, Reach, Selector
from control.wire import discovery as wire
from control.wire.discovery import AppProtocol


class ServicePortSpec(Model):
    """A port of the service and where its workloads listen (default: the same port)."""

    name: Name | None = None
    port: Port
    target_port: TargetPort | None = None
    app_protocol: AppProtocol = AppProtocol.TCP
    protocol: Literal["TCP"] = "TCP"

    @model_validator(mode="after")
    def _target_allowed(self) -> ServicePortSpec:
        check_target_port(self.target)
        return self

    @property
    def target(self) -> int:
        """Where the endpoints listen."""
        return self.port if self.target_port is None else self.target_port

    @property
    def label(self) -> str:
        """Its name, or one made from protocol and port."""
        return self.name or f"{self.app_protocol}-{self.port}"


class ServiceSpec(Model):
    """What stands behind the name, and at which ports."""

    selector: Annotated[Labels, Field(min_length=1)]
    """Labels of the workloads (of the same namespace) behind the service."""
    addresses: MeshAddresses = ()
    """None given: one IPv4 and one IPv6 address are allocated and kept (``status.addresses``)."""
    ports: Annotated[tuple[ServicePortSpec, ...], Field(min_length=1, max_length=MAX_LIST)]

    @model_validator(mode="after")
    def _ports_distinct(self) -> ServiceSpec:
        check_port_names([port.port for port in self.ports], [port.label for port in self.ports])
        return self


class ServiceStatus(Model):
    """Written by the server; ignored where an operator sends it."""

    addresses: tuple[MeshAddress, ...] = ()


def addresses_of(service: Resource[ServiceSpec]) -> tuple[str, ...]:
    """The virtual addresses that the operator gave, else those allocated."""
    status = service.status_of(ServiceStatus)
    return service.spec.addresses or (status.addresses if status else ())


def ports_of(target: Resource[workload.WorkloadSpec], view: View) -> tuple[int, ...]:
    """A workload's own ports and the target ports of its services, sorted."""
    targets = {port.target for service in view.selecting(KIND, target) for port in service.spec.ports}
    return tuple(sorted(targets.union(target.spec.ports)))


def hostname(service: Resource[ServiceSpec], domain: str) -> str:
    """The service's name in DNS."""
    return f"{service.name}.{service.namespace}.{domain}"


def _check_claims(proposal: Proposal) -> Iterable[Fault]:
    """One address and port belong to one workload: a connection to them must mean one identity."""
    claimed: dict[tuple[str, int], Resource[workload.WorkloadSpec]] = {}
    for claimant in proposal.view.of(workload.KIND):
        ports = ports_of(claimant, proposal.view)
        for address in workload.addresses_of(claimant, proposal.view):
            for port in ports:
                other = claimed.setdefault((address, port), claimant)
                if other is not claimant:
                    why = f"both claim {_endpoint(address, port)}"
                    yield proposal.clash(claimant, other, "spec.ports", why)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _allocate(service: Resource[ServiceSpec], take: TakeAddresses) -> Resource[ServiceSpec]:
    if service.spec.addresses:
        return service.model_copy(update={"status": None})
    return service if addresses_of(service) else service.model_copy(update={"status": ServiceStatus(addresses=take())})


def _project(service: Resource[ServiceSpec], view: View, mesh: Mesh) -> Iterable[wire.Service]:
    yield wire.Service(
        uid=service.uid,
        name=service.name,
        namespace=service.namespace,
        hostname=hostname(service, mesh.domain),
        addresses=addresses_of(service),
        ports=tuple(
            wire.ServicePort(name=p.label, port=p.port, target_port=p.target, protocol=p.app_protocol)
            for p in service.spec.ports
        ),
        endpoints=tuple(endpoint.uid for endpoint in view.selected(service, workload.KIND)),
        splice=splice_of(service.labels),
        idle_timeout=idle_timeout_of(service.labels),
        connect_timeout=connect_timeout_of(service.labels),
    )


def _workload_ports(target: Resource[Any], view: View) -> dict[str, Any]:
    return {"ports": ports_of(target, view)}


def _ports_cell(document: Object) -> str:
    return joined(
        f"{p['port']}"
        + (f"->{p['targetPort']}" if p.get("targetPort") not in (None, p["port"]) else "")
        + f"/{p.get('appProtocol', 'tcp')}"
        for p in document["spec"]["ports"]
    )


def _addresses_cell(document: Object) -> str:
    return joined(document["spec"].get("addresses") or (document.get("status") or {}).get("addresses"))


KIND = Kind(
    name="Service",
    plural="services",
    aliases=("svc",),
    doc="A name with virtual addresses before a set of workloads.",
    order=40,
    spec=ServiceSpec,
    status=ServiceStatus,
    checks=(_check_claims,),
    flow_labels=True,
    selector=Selector(field="spec.selector", reach=Reach.NAMESPACE, section="services that select it"),
    virtual_addresses=addresses_of,
    allocate=_allocate,
    wire=wire.Service,
    project=_project,
    refinements=(Refinement(of=wire.Workload, fields=_workload_ports),),
    columns=(("ADDRESSES", _addresses_cell), ("PORTS", _ports_cell)),
    wide=(("SELECTOR", lambda o: pairs(o["spec"]["selector"])),),
)
