"""Bring the kernel's maps to what is desired, in an order in which an enrolled process never sees half a mesh."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from socket import inet_aton, inet_ntoa

from control.wire.address import SocketAddress, packed_ip, unpacked_ip
from nodeagent.capture.plan import Difference, Entry, User, difference
from nodeagent.loader.abi import CgroupFlag, ConfigFlag
from nodeagent.loader.errors import MapFullError
from nodeagent.loader.maps import DestinationKey, Destinations, EnrolledCgroups, Settings, Tagged, Users

SEALED_STILL = (
    "the node is sealed ('nodeagent load --fail-closed') until all that control tells of can be read: programs in no"
    " workload are refused every mesh destination"
)
_MAPPED = bytes(10) + b"\xff\xff"


class MapWriter:
    """The only writer of cgroups and destinations. It remembers what they hold: reading a large map takes a second,
    once.
    """

    def __init__(self, pin_dir: Path) -> None:
        self._cgroups = EnrolledCgroups(pin_dir)
        self._users = Users(pin_dir)
        self._destinations = Destinations(pin_dir)
        self._settings = Settings(pin_dir)
        self.cgroups = {key: Entry(*value) for key, value in self._cgroups.entries().items()}
        self.users = frozenset(User(*key) for key in self._users.entries())
        self.destinations = {_address(key): Entry(*value) for key, value in self._destinations.entries().items()}
        self._flags = self._settings.flags()
        self._left_out = 0
        self._behind: set[SocketAddress] = set()
        """Destinations that may differ from what was wanted last."""

    @property
    def incomplete(self) -> bool:
        """Whether enrolled processes are refused whatever is not known, because not every destination fitted."""
        return ConfigFlag.INCOMPLETE in self._flags

    def seal(self) -> None:
        """Until an ``apply`` that knows all: who is in no workload is refused mesh destinations."""
        self._set(ConfigFlag.SEALED, on=True)

    def seal_when_alone(self, wanted: bool) -> None:
        """Whether the same is to hold whenever no manager lives (``Alive``)."""
        self._set(ConfigFlag.SEALED_ALONE, on=wanted)

    def close(self) -> None:
        """Close the maps; they keep their contents."""
        for view in (self._cgroups, self._users, self._destinations, self._settings):
            view.close()

    def apply(
        self,
        cgroups: Mapping[int, Entry],
        destinations: Mapping[SocketAddress, Entry] | None,
        users: frozenset[User] = frozenset(),
        *,
        keep: bool = False,
        touched: Collection[SocketAddress] | None = None,
    ) -> list[str]:
        """Write the differences; None leaves the destinations as they are. Problems, if something did not fit.

        With ``keep`` nothing is taken out: what is captured stays captured. Destinations come before the cgroups that
        need them, and go after those that do not any more. If they do not all fit, enrolled processes are refused
        everything unknown, from before the first one that is left out. ``touched``: the destinations that may differ
        from those of the last ``apply``; None: any.
        """
        if keep:
            cgroups = {**self.cgroups, **cgroups}
            users |= self.users
        change = None if destinations is None else self._change(destinations, touched, keep=keep)
        if change is not None and self._size_after(change) > self._destinations.capacity:
            self._set_incomplete(True)
        self._leave(cgroups, users)
        if change is not None:
            self._left_out = self._write_destinations(change)
            self._set_incomplete(self._left_out > 0)
        problems = self._join(cgroups, users)
        if not keep:
            self._set(ConfigFlag.SEALED, on=False)
        elif ConfigFlag.SEALED in self._flags:
            problems.append(SEALED_STILL)
        if self._left_out:
            problems.append(
                f"{self._left_out} mesh destinations do not fit into the kernel's map"
                f" ({self._destinations.capacity} entries):"
                " enrolled workloads are refused every destination that is not in it"
            )
        return problems

    def _leave(self, cgroups: Mapping[int, Entry], users: frozenset[User]) -> None:
        for user in self.users - users:
            self._users.remove(*user)
        self.users &= users
        for key in difference(cgroups, self.cgroups).remove:
            self._cgroups.remove(key)
            del self.cgroups[key]

    def _join(self, cgroups: Mapping[int, Entry], users: frozenset[User]) -> list[str]:
        put = difference(cgroups, self.cgroups).put
        # first what stands for users, then who they are, then the cgroups that send for them
        last = [(key, entry) for key, entry in put.items() if entry.flags & CgroupFlag.BY_USER]
        first = [(key, entry) for key, entry in put.items() if not entry.flags & CgroupFlag.BY_USER]
        missing = len(put) + len(users - self.users)
        try:
            for key, entry in first:
                self._cgroups.put(key, Tagged(*entry))
                self.cgroups[key], missing = entry, missing - 1
            for user in users - self.users:
                self._users.put(*user, user.number)
                self.users, missing = self.users | {user}, missing - 1
            for key, entry in last:
                self._cgroups.put(key, Tagged(*entry))
                self.cgroups[key], missing = entry, missing - 1
        except MapFullError as error:
            return [f"{missing} cgroups cannot be enrolled, their connections are NOT captured: {error}"]
        return []

    def _change(
        self, wanted: Mapping[SocketAddress, Entry], touched: Collection[SocketAddress] | None, *, keep: bool
    ) -> Difference[SocketAddress, Entry]:
        """What is to be written; what cannot be, or is kept in spite of ``wanted``, is looked at again next time."""
        if touched is None:
            self._behind = {*wanted, *self.destinations}
        else:
            self._behind |= set(touched)
        put: dict[SocketAddress, Entry] = {}
        remove: list[SocketAddress] = []
        for address in self._behind:
            entry = wanted.get(address)
            if entry is not None and self.destinations.get(address) != entry:
                put[address] = entry
            elif entry is None and address in self.destinations:
                remove.append(address)
        self._behind = {*put, *remove}
        return Difference(put, () if keep else tuple(remove))

    def _size_after(self, change: Difference[SocketAddress, Entry]) -> int:
        added = sum(address not in self.destinations for address in change.put)
        return len(self.destinations) - len(change.remove) + added

    def _write_destinations(self, change: Difference[SocketAddress, Entry]) -> int:
        """How many did not fit."""
        for address in change.remove:
            self._destinations.remove(_key(address))
            del self.destinations[address]
            self._behind.discard(address)
        written = self._destinations.put((_key(address), Tagged(*entry)) for address, entry in change.put.items())
        done = dict(islice(change.put.items(), written))
        self.destinations.update(done)
        self._behind -= done.keys()
        return len(change.put) - written

    def _set_incomplete(self, incomplete: bool) -> None:
        self._set(ConfigFlag.INCOMPLETE, on=incomplete)

    def _set(self, flag: ConfigFlag, *, on: bool) -> None:
        flags = self._flags | flag if on else self._flags & ~flag
        if flags != self._flags:
            self._settings.set(flags)
            self._flags = flags


def _key(address: SocketAddress) -> DestinationKey:
    ip = address.ip
    return DestinationKey(packed_ip(ip) if ":" in ip else _MAPPED + inet_aton(ip), address.port)


def _address(key: DestinationKey) -> SocketAddress:
    addr = key.addr
    return SocketAddress(inet_ntoa(addr[12:]) if addr.startswith(_MAPPED) else unpacked_ip(addr), key.port)
