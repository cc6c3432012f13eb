"""Types of fields that several kinds share. A check returns the canonical value or raises ValueError with the rule."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from control.wire.address import AddressError, canonical_ip, parse_port
from control.wire.ids import is_dns_label

MAX_LABELS = 64
MAX_ANNOTATIONS = 64
MAX_ANNOTATION_CHARACTERS = 4096
MAX_LIST = 1024
"""Entries of any one list in a spec."""
MAX_ADDRESSES = 16
RESERVED_PORTS = (15001, 15006, 15008)
"""The agents' own ports (capture, inbound plaintext, tunnels): never a target."""

_LABEL_NAME = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?)\Z")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][A-Za-z0-9._-]{0,61})?[A-Za-z0-9])?\Z")


def check_name(text: str) -> str:
    """A resource name, or ValueError with the rule."""
    if not is_dns_label(text):
        raise ValueError(
            f"{text[:80]!r} is not a name: lower-case letters, digits and '-' inside, at most 63 characters"
        )
    return text


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Label keys and values as Kubernetes has them, or ValueError."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels; at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.match(name) or (slash and not _LABEL_PREFIX.match(prefix)):
            raise ValueError(f"{key[:80]!r} is not a label key ([prefix/]name, the name at most 63 characters)")
        if not _LABEL_VALUE.match(value):
            raise ValueError(f"{key}: {value[:80]!r} is not a label value (letters, digits, '.', '_', '-'; at most 63)")
    return labels


def check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    """Annotations are free text of bounded size."""
    if len(annotations) > MAX_ANNOTATIONS:
        raise ValueError(f"{len(annotations)} annotations; at most {MAX_ANNOTATIONS} are allowed")
    if sum(len(k) + len(v) for k, v in annotations.items()) > MAX_ANNOTATION_CHARACTERS:
        raise ValueError(f"annotations are longer than {MAX_ANNOTATION_CHARACTERS} characters in all")
    return annotations


def check_ip(text: str) -> str:
    """An IP address in canonical spelling (a v4-mapped one is made IPv4)."""
    return canonical_ip(text)


def check_mesh_address(text: str) -> str:
    """An address by which other nodes can reach a host."""
    address = ipaddress.ip_address(canonical_ip(text))
    if address.is_loopback:
        raise ValueError(f"{text} is a loopback address: no other node can reach it (spec.appAddress may be one)")
    if address.is_unspecified or address.is_multicast or (address.version == 6 and address.is_link_local):
        raise ValueError(f"{text} does not name one host (unspecified, multicast or link-local)")
    return str(address)


def check_target_port(port: int) -> int:
    """A port that a workload may serve."""
    if port in RESERVED_PORTS:
        raise ValueError(f"{port} is a port of the agents themselves (15001, 15006, 15008)")
    return port


def check_port_text(text: str) -> str:
    """A decimal port in a string, as Istio writes it."""
    try:
        parse_port(text)
    except AddressError as error:
        raise ValueError(str(error)) from None
    return text


def check_distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    """A list without duplicates."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value} is listed twice")
    return values


def check_port_names(numbers: list[int], names: list[str]) -> None:
    """Ports of one spec have distinct numbers and distinct names."""
    for what, values in (("port", numbers), ("port name", names)):
        for index, value in enumerate(values):
            if value in values[:index]:
                raise ValueError(f"{what} {value} is listed twice")


def _port_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, AfterValidator(check_name)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels)]
Annotations = Annotated[dict[str, str], AfterValidator(check_annotations)]
IpAddress = Annotated[str, AfterValidator(check_ip)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
PortText = Annotated[str, BeforeValidator(_port_text), AfterValidator(check_port_text)]
MeshAddress = Annotated[IpAddress, AfterValidator(check_mesh_address)]
MeshAddresses = Annotated[tuple[MeshAddress, ...], Field(max_length=MAX_ADDRESSES), AfterValidator(check_distinct)]
TargetPort = Annotated[Port, AfterValidator(check_target_port)]
TargetPorts = Annotated[tuple[TargetPort, ...], Field(max_length=MAX_LIST), AfterValidator(check_distinct)]
