"""The manager's handle on what arrives in the namespaces of this node: plaintext from outside the mesh, and
connections to the agent's own ports.

What is in force stays in force when the agent ends: STRICT goes on refusing, PERMISSIVE refuses because nobody listens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from nodeagent.capture.plan import difference
from nodeagent.loader.abi import PortMode
from nodeagent.loader.errors import LoaderError
from nodeagent.loader.lookup import InboundLinks
from nodeagent.loader.pins import PinDirectory
from nodeagent.loader.ports import LocalAddresses, OwnKey, OwnPorts, PortEntry, PortKey, PortModes
from nodeagent.namespaces.handle import Namespace


class InboundGuard:
    """Programs on the namespaces of this node's workloads, and what they read. Synchronous and quick."""

    def __init__(self, pins: PinDirectory) -> None:
        self._links = InboundLinks(pins)
        self._modes = PortModes(pins.path)
        self._own = OwnPorts(pins.path)
        self._local = LocalAddresses(pins.path)
        self._namespaces: dict[int, int] = {}
        self.ports = self._modes.entries()
        """What is in force."""
        self.own = self._own.entries()
        self._addresses = self._local.entries()

    @property
    def namespaces(self) -> dict[int, int]:
        """Cookie -> inode of the namespaces that are guarded."""
        return dict(self._namespaces)

    def guard(self, namespaces: Iterable[Namespace], *, keep: bool = False) -> list[str]:
        """Be in force in exactly these (with ``keep`` also where it is already); problems, if the kernel refuses.

        Call it now and then with the same: where somebody detached the program it is attached again.
        """
        wanted = {namespace.cookie: namespace for namespace in namespaces}
        problems = [problem for namespace in wanted.values() for problem in self.cover(namespace)]
        for cookie in () if keep else (self._links.pinned() | self._namespaces.keys()) - wanted.keys():
            self._links.release(cookie)
            self._namespaces.pop(cookie, None)
        return problems

    def cover(self, namespace: Namespace) -> list[str]:
        """Be in force in this one too; problems, if the kernel refuses."""
        cookie = namespace.cookie
        if self._links.standing(cookie, namespace.inode):
            return []
        again = cookie in self._namespaces
        try:
            self._links.attach(cookie, namespace.inode, namespace.fd)
            self._namespaces[cookie] = namespace.inode
        except LoaderError as error:
            return [f"what arrives in network namespace {namespace.inode} is NOT met: {error}"]
        return ["the program on arriving connections had been detached; it is attached again"] if again else []

    def apply(self, ports: Mapping[PortKey, PortEntry], own: set[OwnKey], *, keep: bool = False) -> list[str]:
        """Write the differences; problems, if something did not fit. With ``keep`` nothing is taken out.

        Ports that are to refuse come first, and a workload's way to itself before what would refuse it.
        """
        if keep:
            ports, own = {**self.ports, **ports}, self.own | own
        change = difference(ports, self.ports)
        problems = self._write_own(own - self.own)
        put = sorted(change.put.items(), key=lambda item: item[1].mode != PortMode.STRICT)
        written = self._modes.put(put)
        self.ports.update(islice(put, written))
        for key in change.remove:
            self._modes.remove(key)
            del self.ports[key]
        for own_key in self.own - own:
            self._own.remove(own_key)
        self.own &= own
        if written < len(put):
            problems.append(
                f"{len(put) - written} ports of workloads do not fit into the kernel's map"
                f" ({self._modes.capacity} entries): plaintext to them is NOT met"
            )
        return problems

    def know(self, addresses: set[bytes]) -> list[str]:
        """These are the host's own addresses (16 bytes each): from them health checks come. Problems, if they do not
        fit.
        """
        more = sorted(addresses - self._addresses)
        written = self._local.put(more)
        for gone in self._addresses - addresses:
            self._local.remove(gone)
        self._addresses = (self._addresses & addresses) | set(more[:written])
        if written == len(more):
            return []
        return [f"health checks from {len(more) - written} addresses of this host are refused: the map is full"]

    def _write_own(self, more: set[OwnKey]) -> list[str]:
        keys = sorted(more)
        written = self._own.put(keys)
        self.own.update(keys[:written])
        if written == len(keys):
            return []
        return [f"{len(keys) - written} workloads' connections to themselves are met as others' are: the map is full"]

    def close(self) -> None:
        """Let go; what is in force stays."""
        self._links.close()
        self._modes.close()
        self._own.close()
        self._local.close()
