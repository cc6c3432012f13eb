"""Which ports of this node are met how, as the kernel's map should have it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from control.wire.address import AddressError, canonical_ip, packed_ip
from control.wire.discovery import MtlsMode, Workload
from nodeagent.loader.abi import PortFlag, PortMode
from nodeagent.loader.ports import ANYWHERE, OwnKey, PortEntry, PortKey

AGENT_PORTS: Final = frozenset({15001, 15006, 15008})
"""Never met as a workload's: control refuses them, and a tunnel port that refused would end the mesh."""

_LENIENCE = {PortMode.STRICT: 0, PortMode.PERMISSIVE: 1, PortMode.DISABLE: 2}

ModeOf = Callable[[Workload, int], MtlsMode]


def ports_of(
    workloads: Iterable[Workload], namespace_of: Callable[[Workload], Iterable[int]], mode_of: ModeOf,
    reserved: frozenset[int] = AGENT_PORTS,
) -> dict[PortKey, PortEntry]:  # fmt: skip
    """Every address and port of these workloads, and each port at any other address of their namespaces (cookies).

    A server may listen on addresses that the mesh does not know: there, and where two workloads claim the same, the
    strictest of all that could be meant holds.
    """
    entries: dict[PortKey, PortEntry] = {}
    for workload in workloads:
        addresses = [packed for text in _addresses(workload) if (packed := _packed(text)) is not None]
        for port in workload.ports:
            if port in reserved:
                continue
            mode = PortMode[mode_of(workload, port).value]
            entry = PortEntry(mode, PortFlag.PROBES if port in workload.probe_ports else 0)
            for netns in namespace_of(workload):
                for addr in (*addresses, ANYWHERE):
                    key = PortKey(netns, addr, port)
                    entries[key] = _stricter(entries[key], entry) if key in entries else entry
    return entries


def own_ports(
    workloads: Iterable[Workload], cgroups: Mapping[int, str], namespace_of: Callable[[Workload], Iterable[int]]
) -> set[OwnKey]:
    """Where a cgroup's own workload, and no other, listens. ``cgroups``: id -> uid.

    That is each address and port that it alone claims, and its port at every address that nobody claims if no other
    workload of the namespace has that port. A place that several claim is nobody's own: who listens there is not known.
    """
    claims: dict[tuple[int, bytes, int], set[str]] = {}
    for workload in workloads:
        addresses = [packed for text in _addresses(workload) if (packed := _packed(text)) is not None]
        for port in workload.ports:
            for netns in namespace_of(workload):
                for addr in (*addresses, ANYWHERE):
                    claims.setdefault((netns, addr, port), set()).add(workload.uid)
    by_uid: dict[str, list[tuple[int, bytes, int]]] = {}
    for place, claimants in claims.items():
        if len(claimants) == 1:
            by_uid.setdefault(next(iter(claimants)), []).append(place)
    return {OwnKey(cgroup, *place) for cgroup, uid in cgroups.items() for place in by_uid.get(uid, ())}


def _addresses(workload: Workload) -> list[str]:
    return [*workload.addresses, *([workload.app_address] if workload.app_address else [])]


def _packed(text: str) -> bytes | None:
    try:
        return packed_ip(canonical_ip(text))
    except AddressError:
        return None  # the port at any address covers it


def _stricter(one: PortEntry, other: PortEntry) -> PortEntry:
    mode = min(PortMode(one.mode), PortMode(other.mode), key=_LENIENCE.__getitem__)
    return PortEntry(mode, one.flags & other.flags)
