"""Reads a batch item by item: one bad object never costs the others, and never survives as its former self.

Besides types (``control.wire.codec``) it checks what later code relies on: addresses are canonical, ports are ports,
a workload's identity is a workload identity, an object carries the uid under which it was sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from control.wire.address import MAX_PORT, AddressError, canonical_ip
from control.wire.codec import decode
from control.wire.discovery import (
    KINDS,
    AuthorizationPolicy,
    DiscoveryObject,
    External,
    MeshSettings,
    Resolution,
    Service,
    TrustBundle,
    Workload,
)
from control.wire.governed import MAX_IDLE_TIMEOUT
from control.wire.ids import SpiffeId, check_domain, check_trust_domain
from control.wire.watch import Change

MAX_REJECTED = 100
"""Messages that one batch may leave; the rest is counted."""
MAX_MESSAGE = 300
"""Characters of one message: a peer's value may be quoted in it."""

Key = tuple[str, str]


class UnacceptableError(ValueError):
    """An object is well typed but says what cannot be."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A batch's changes, the last word for each object; None: gone, or unreadable and so not received."""

    objects: dict[Key, DiscoveryObject | None]
    rejected: tuple[str, ...]
    unreadable: frozenset[Key]
    """Objects that exist, but could not be read."""


def accept(changes: tuple[Change, ...]) -> Accepted:
    """Read every change; name what was refused."""
    objects: dict[Key, DiscoveryObject | None] = {}
    messages: list[str] = []
    unknown: Counter[str] = Counter()
    unreadable: set[Key] = set()
    for change in changes:
        if change.kind not in KINDS:
            unknown[change.kind[:MAX_MESSAGE]] += 1
            continue
        key = (change.kind, change.uid)
        unreadable.discard(key)
        try:
            objects[key] = None if change.value is None else _read(change)
        except ValueError as error:
            objects[key] = None
            unreadable.add(key)
            messages.append(_clip(f"{change.kind} {change.uid}: {error}"))
    messages += [
        _clip(f"kind {kind!r} is not known to this version of the agent: {count} skipped")
        for kind, count in unknown.items()
    ]
    return Accepted(objects, _bounded(messages), frozenset(unreadable))


def _clip(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _bounded(messages: list[str]) -> tuple[str, ...]:
    if len(messages) <= MAX_REJECTED:
        return tuple(messages)
    return (*messages[: MAX_REJECTED - 1], f"and {len(messages) - MAX_REJECTED + 1} more")


def _read(change: Change) -> DiscoveryObject:
    value = cast(DiscoveryObject, decode(cast(type[Any], KINDS[change.kind]), change.value))
    if value.uid != change.uid:
        raise UnacceptableError(f"uid: it calls itself {value.uid!r}")
    return _CHECKS[change.kind](value)


def _canonical(addresses: tuple[str, ...]) -> tuple[str, ...]:
    # dict: an address written in two spellings is one address
    return tuple(dict.fromkeys(canonical_ip(address) for address in addresses))


def _check_ports(field: str, ports: tuple[int, ...]) -> None:
    for port in ports:
        if not 1 <= port <= MAX_PORT:
            raise UnacceptableError(f"{field}: {port} is not a port (1 to {MAX_PORT})")


def _check_idle_timeout(seconds: int | None) -> None:
    if seconds is not None and not 0 <= seconds <= MAX_IDLE_TIMEOUT:
        raise UnacceptableError(f"idle_timeout: {seconds} is not 0 to {MAX_IDLE_TIMEOUT} seconds")


def _workload(workload: Workload) -> Workload:
    if not SpiffeId.parse(workload.identity).is_workload:
        raise UnacceptableError(f"identity: {workload.identity!r} is not /ns/<namespace>/sa/<service-account>")
    _check_ports("ports", workload.ports)
    _check_ports("tunnel_port", (workload.tunnel_port,))
    _check_idle_timeout(workload.idle_timeout)
    app_address = None if workload.app_address is None else canonical_ip(workload.app_address)
    return replace(
        workload, addresses=_canonical(workload.addresses), app_address=app_address,
        tunnel_addresses=_canonical(workload.tunnel_addresses),
    )  # fmt: skip


def _service(service: Service) -> Service:
    _check_ports("ports", tuple(port.port for port in service.ports))
    _check_ports("target_port", tuple(port.target_port for port in service.ports))
    _check_idle_timeout(service.idle_timeout)
    external = None if service.external is None else _external(service.external)
    return replace(service, addresses=_canonical(service.addresses), external=external)


def _external(external: External) -> External:
    endpoints = []
    for endpoint in external.endpoints:
        _check_ports("external", tuple(endpoint.ports.values()))
        try:
            address = canonical_ip(endpoint.address)
        except AddressError:
            if external.resolution is Resolution.STATIC:
                raise
            address = endpoint.address.lower()
        endpoints.append(replace(endpoint, address=address))
    return replace(external, endpoints=tuple(endpoints))


def _policy(policy: AuthorizationPolicy) -> AuthorizationPolicy:
    # its patterns and networks are read by nodeagent.policy.compile, which denies by what it cannot read
    return policy


def _bundle(bundle: TrustBundle) -> TrustBundle:
    check_trust_domain(bundle.uid)
    return bundle


def _mesh(settings: MeshSettings) -> MeshSettings:
    check_domain(settings.domain)
    _check_idle_timeout(settings.idle_timeout)
    return settings


_CHECKS: dict[str, Callable[[Any], DiscoveryObject]] = {
    "workload": _workload,
    "service": _service,
    "policy": _policy,
    "bundle": _bundle,
    "mesh": _mesh,
}
