"""Service: a name and virtual addresses before a set of workloads."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from control.registry.model import MAX_LIST, Labels, Model, Name, Port, Resource
from control.registry.workloads import MAX_ADDRESSES, MeshAddress, TargetPort, check_distinct, check_target_port
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
        """Its name, given or made from protocol and port."""
        return self.name or f"{self.app_protocol}-{self.port}"


class ServiceSpec(Model):
    """What stands behind the name, and at which ports."""

    selector: Annotated[Labels, Field(min_length=1)]
    """Labels of the workloads (of the same namespace) behind the service."""
    addresses: Annotated[tuple[MeshAddress, ...], Field(max_length=MAX_ADDRESSES), AfterValidator(check_distinct)] = ()
    """None given: one IPv4 and one IPv6 address are allocated and kept (``status.addresses``)."""
    ports: Annotated[tuple[ServicePortSpec, ...], Field(min_length=1, max_length=MAX_LIST)]

    @model_validator(mode="after")
    def _ports_distinct(self) -> ServiceSpec:
        for what, values in (("port", [p.port for p in self.ports]), ("port name", [p.label for p in self.ports])):
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise ValueError(f"{what} {value} is listed twice")
        return self


class ServiceStatus(Model):
    """Written by the server; ignored where an operator sends it."""

    addresses: tuple[MeshAddress, ...] = ()


class Service(Resource):
    """A name with virtual addresses before a set of workloads."""

    KIND: ClassVar[str] = "Service"
    PLURAL: ClassVar[str] = "services"

    kind: Literal["Service"] = "Service"
    spec: ServiceSpec
    status: ServiceStatus | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those that the operator gave, else those allocated."""
        return self.spec.addresses or (self.status.addresses if self.status else ())
