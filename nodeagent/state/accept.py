"""Reads a batch item by item: one bad object never costs the others, and never survives as its former self.

Besides types (``control.codec``) it checks what later code relies on: addresses are canonical, ports are ports,
a workload's identity is a workload identity, an object carries the uid under which it was sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from control.codec.values import DecodeError, decode, from_json
from control.wire.address import MAX_PORT, AddressError, canonical_ip
from control.wire.discovery import (
    KINDS,
    AppProtocol,
    AuthorizationPolicy,
    DiscoveryObject,
    External,
    MeshSettings,
    Resolution,
    Service,
    TrustBundle,
    Workload,
)
from control.wire.governed import MAX_CONNECT_TIMEOUT, MAX_IDLE_TIMEOUT
from control.wire.ids import SpiffeId, check_domain, check_trust_domain
from control.wire.watch import Change

MAX_REJECTED = 100
"""Messages that one batch may leave; the rest is counted."""
MAX_MESSAGE = 300
"""Characters of one message: a peer's value may be quoted in it."""

MAX_VALUE = 40
"""Characters of an unknown value that are kept."""
_PROTOCOLS = frozenset(protocol.value for protocol in AppProtocol)
OTHER_KINDS = "(others)"
"""Counts for every kind that is unknown beyond the first MAX_REJECTED of them."""

Key = tuple[str, str]


class UnacceptableError(ValueError):
    """An object is well typed but says what cannot be."""


class Acceptance:
    """A batch as far as it was read: the last word for each object."""

    def __init__(self) -> None:
        self.objects: dict[Key, DiscoveryObject | None] = {}
        """None: gone, or unreadable and so not received."""
        self.unreadable: set[Key] = set()
        """Objects that exist, but could not be read."""
        self.unknown: Counter[str] = Counter()
        """Values that are not known and cost nothing."""
        self._messages: list[str] = []
        self._untold = 0
        self._kinds: Counter[str] = Counter()

    def take(self, change: Change) -> None:
        """Read a change. What cannot be read is noted, and costs no other object anything."""
        if change.kind not in KINDS:
            self._kinds[change.kind[:MAX_MESSAGE] if len(self._kinds) < MAX_REJECTED else OTHER_KINDS] += 1
            return
        key = (change.kind, change.uid)
        self.unreadable.discard(key)
        try:
            self.objects[key] = (
                None if change.value is None else _checked(change, self._read(change.kind, change.value))
            )
        except ValueError as error:
            self.objects[key] = None
            self.unreadable.add(key)
            self._reject(f"{change.kind} {change.uid}: {error}")

    @property
    def rejected(self) -> tuple[str, ...]:
        """What was refused or skipped, in words, at most MAX_REJECTED items."""
        skipped = [
            _clip(f"kind {kind!r} is not known to this version of the agent: {count} skipped")
            for kind, count in self._kinds.items()
        ]
        messages = [*self._messages, *skipped]
        left_out = self._untold + max(0, len(messages) - MAX_REJECTED)
        if not left_out:
            return tuple(messages)
        kept = messages[: MAX_REJECTED - 1]
        return (*kept, f"and {self._untold + len(messages) - len(kept)} more")

    def _read(self, kind: str, encoded: bytes) -> DiscoveryObject:
        try:
            return cast(DiscoveryObject, from_json(cast(type[Any], KINDS[kind]), encoded))
        except DecodeError:
            if kind != "service":
                raise
        return self._read_service(encoded)

    def _read_service(self, encoded: bytes) -> Service:
        """Read a service again, any protocol that is not known as bytes: the agent carries those all the same."""
        document = from_json(dict[str, Any], encoded)
        ports = document.get("ports")
        for port in ports if isinstance(ports, list) else ():
            said = port.get("protocol") if isinstance(port, dict) else None
            if isinstance(said, str) and said not in _PROTOCOLS:
                port["protocol"] = AppProtocol.TCP.value
                self.unknown[f"protocol {said[:MAX_VALUE]}"] += 1
        return decode(Service, document)

    def _reject(self, message: str) -> None:
        if len(self._messages) < MAX_REJECTED:
            self._messages.append(_clip(message))
        else:
            self._untold += 1


def _clip(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _checked(change: Change, value: DiscoveryObject) -> DiscoveryObject:
    if value.uid != change.uid:
        raise UnacceptableError(f"uid: it calls itself {value.uid!r}")
    return _CHECKS[change.kind](value)


def _canonical(addresses: tuple[str, ...]) -> tuple[str, ...]:
    # dict: an address written in two spellings is one address
    return tuple(dict.fromkeys([canonical_ip(address) for address in addresses]))


def _check_ports(field: str, ports: tuple[int, ...]) -> None:
    for port in ports:
        if not 1 <= port <= MAX_PORT:
            raise UnacceptableError(f"{field}: {port} is not a port (1 to {MAX_PORT})")


def _check_idle_timeout(seconds: int | None) -> None:
    if seconds is not None and not 0 <= seconds <= MAX_IDLE_TIMEOUT:
        raise UnacceptableError(f"idle_timeout: {seconds} is not 0 to {MAX_IDLE_TIMEOUT} seconds")


def _check_connect_timeout(seconds: int | None) -> None:
    if seconds is not None and not 1 <= seconds <= MAX_CONNECT_TIMEOUT:
        raise UnacceptableError(f"connect_timeout: {seconds} is not 1 to {MAX_CONNECT_TIMEOUT} seconds")


def _workload(workload: Workload) -> Workload:
    if not SpiffeId.parse(workload.identity).is_workload:
        raise UnacceptableError(f"identity: {workload.identity!r} is not /ns/<namespace>/sa/<service-account>")
    _check_ports("ports", workload.ports)
    _check_ports("tunnel_port", (workload.tunnel_port,))
    _check_idle_timeout(workload.idle_timeout)
    said = (workload.addresses, workload.app_address, workload.tunnel_addresses)
    app_address = None if workload.app_address is None else canonical_ip(workload.app_address)
    canonical = (_canonical(workload.addresses), app_address, _canonical(workload.tunnel_addresses))
    if canonical == said:  # as control writes them
        return workload
    return replace(workload, addresses=canonical[0], app_address=canonical[1], tunnel_addresses=canonical[2])


def _service(service: Service) -> Service:
    _check_ports("ports", tuple(port.port for port in service.ports))
    _check_ports("target_port", tuple(port.target_port for port in service.ports))
    _check_idle_timeout(service.idle_timeout)
    _check_connect_timeout(service.connect_timeout)
    external = None if service.external is None else _external(service.external)
    addresses = _canonical(service.addresses)
    if (addresses, external) == (service.addresses, service.external):
        return service
    return replace(service, addresses=addresses, external=external)


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
    _check_connect_timeout(settings.connect_timeout)
    return settings


_CHECKS: dict[str, Callable[[Any], DiscoveryObject]] = {
    "workload": _workload,
    "service": _service,
    "policy": _policy,
    "bundle": _bundle,
    "mesh": _mesh,
}
