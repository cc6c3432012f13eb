"""Everything that is captured when an enrolled process connects to it, kept by key: a change costs what changed.

The same entries as ``plan.destinations_of`` gives for the whole state. Where several objects have an address and port,
a service goes before a workload, and that before an address outside the mesh; of two alike, the lower uid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.wire.address import SocketAddress
from control.wire.discovery import Service, Workload
from nodeagent.capture.plan import DestinationPlan, Entry, tag
from nodeagent.loader.abi import DestinationFlag
from nodeagent.state.targets import external_sockets
from nodeagent.state.view import NodeState

Key = tuple[str, str]
_SERVICE, _WORKLOAD, _EXTERNAL = 0, 1, 2
Claim = tuple[int, str]
"""(rank, uid): of several the least has the address."""
_FLAGS = {
    _SERVICE: DestinationFlag.SERVICE, _WORKLOAD: DestinationFlag.WORKLOAD, _EXTERNAL: DestinationFlag.EXTERNAL,
}  # fmt: skip


class DestinationTable:
    """Follows a ``NodeState``, whose addresses are canonical."""

    def __init__(self) -> None:
        self._entries: dict[SocketAddress, Entry] = {}
        self._claims: dict[SocketAddress, Claim | set[Claim]] = {}
        self._held: dict[Key, tuple[tuple[SocketAddress, Claim], ...]] = {}
        self._touched: set[SocketAddress] = set()
        self._seen = 0
        self._all = True

    def follow(self, state: NodeState) -> DestinationPlan:
        """What is captured by the state as it is now. ``touched`` are the addresses that may differ from what was
        ``confirmed`` last."""
        changed = state.recent.since(self._seen)
        self._seen = state.recent.number
        if changed is None:
            self._all = True
            changed = [*self._held, *(("workload", w.uid) for w in state.workloads())]
            changed += [("service", s.uid) for s in state.services()]
        for kind, uid in changed:
            if kind in ("workload", "service"):
                found = state.workload(uid) if kind == "workload" else state.service(uid)
                self._replace((kind, uid), () if found is None else tuple(_claims_of(found)))
        return DestinationPlan(self._entries, touched=None if self._all else frozenset(self._touched))

    def confirmed(self) -> None:
        """What ``follow`` returned is in force, or will be tried again by whoever writes it."""
        self._touched.clear()
        self._all = False

    def _replace(self, key: Key, claims: tuple[tuple[SocketAddress, Claim], ...]) -> None:
        before = self._held.pop(key, ())
        if claims:
            self._held[key] = claims
        for address, claim in before:
            if (address, claim) not in claims:
                self._withdraw(address, claim)
        for address, claim in claims:
            if (address, claim) not in before:
                self._claim(address, claim)

    def _claim(self, address: SocketAddress, claim: Claim) -> None:
        present = self._claims.get(address)
        if present is None:
            self._claims[address] = claim
        elif isinstance(present, set):
            present.add(claim)
        elif present != claim:
            self._claims[address] = {present, claim}
        self._settle(address)

    def _withdraw(self, address: SocketAddress, claim: Claim) -> None:
        present = self._claims.get(address)
        if isinstance(present, set):
            present.discard(claim)
            if len(present) == 1:
                (self._claims[address],) = present
        elif present == claim:
            del self._claims[address]
        self._settle(address)

    def _settle(self, address: SocketAddress) -> None:
        self._touched.add(address)
        claims = self._claims.get(address)
        if claims is None:
            self._entries.pop(address, None)
            return
        rank, uid = min(claims) if isinstance(claims, set) else claims
        self._entries[address] = Entry(tag(uid), _FLAGS[rank])


def _claims_of(found: Workload | Service) -> Iterator[tuple[SocketAddress, Claim]]:
    if isinstance(found, Workload):
        return _each(found.addresses, found.ports, (_WORKLOAD, found.uid))
    return _claims_of_service(found)


def _claims_of_service(service: Service) -> Iterator[tuple[SocketAddress, Claim]]:
    yield from _each(service.addresses, [port.port for port in service.ports], (_SERVICE, service.uid))
    outside = (_EXTERNAL, service.uid)
    for address in dict.fromkeys(address for address, _ in external_sockets(service)):
        yield address, outside


def _each(ips: Iterable[str], ports: Iterable[int], claim: Claim) -> Iterator[tuple[SocketAddress, Claim]]:
    for address in dict.fromkeys(SocketAddress(ip, port) for ip in ips for port in ports):
        yield address, claim
