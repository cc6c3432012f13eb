"""Names outside the mesh, looked up for the agent's own connections: by dnspython, from the node's resolvers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from control.wire.address import canonical_ip
from nodeagent.dns.remembered import Remembered, RememberedNames, is_outside

LOOKUP_SECONDS: Final = 5.0
"""For all resolvers together."""
MAX_LOOKUPS: Final = 256
"""Names that are being looked up at the same time; further ones fail at once."""
TYPES: Final = (dns.rdatatype.A, dns.rdatatype.AAAA)

Spawn = Callable[[Coroutine[Any, Any, None], str], None]
Ask = Callable[[str, dns.rdatatype.RdataType], Awaitable[tuple[tuple[str, ...], float]]]
"""(name, type) -> (addresses, seconds that they are good). ``dns.exception.DNSException`` or OSError if that fails."""


class Resolvers:
    """The node's resolvers, read anew when the file changes. Neither its search list nor /etc/hosts is used: the names
    of an entry are whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def ask(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[tuple[str, ...], float]:
        """One question."""
        answer = await self._current().resolve(
            dns.name.from_text(name), kind, search=False, lifetime=LOOKUP_SECONDS, raise_on_no_answer=False
        )
        addresses = tuple(canonical_ip(item.to_text()) for item in answer.rrset or ())
        return addresses, float(answer.chaining_result.minimum_ttl)

    def _current(self) -> dns.asyncresolver.Resolver:
        found = self._path.stat()
        stamp = (found.st_mtime_ns, found.st_ino)
        if self._resolver is None or stamp != self._read_at:
            self._resolver, self._read_at = dns.asyncresolver.Resolver(str(self._path)), stamp
        return self._resolver


class NameLookup:
    """One per worker. A name that many connections want is asked for once."""

    def __init__(self, ask: Ask, clock: Callable[[], float], spawn: Spawn) -> None:
        self._ask = ask
        self._clock = clock
        self._spawn = spawn
        self._names = RememberedNames()
        self._pending: dict[str, asyncio.Future[Remembered]] = {}

    async def __call__(self, name: str) -> tuple[str, ...]:
        """Its addresses; ``socket.gaierror`` (EAI_NONAME: it has none, EAI_AGAIN: nobody knows) with why."""
        found = self._names.get(name, self._clock())
        if found is None:
            found = await self._looked_up(name)
        if found.addresses:
            return found.addresses
        raise socket.gaierror(socket.EAI_AGAIN if found.exists else socket.EAI_NONAME, found.why)

    async def _looked_up(self, name: str) -> Remembered:
        pending = self._pending.get(name)
        if pending is None:
            if len(self._pending) >= MAX_LOOKUPS:
                raise socket.gaierror(socket.EAI_AGAIN, f"{MAX_LOOKUPS} names are being looked up already")
            pending = self._pending[name] = asyncio.get_running_loop().create_future()
            self._spawn(self._look_up(name, pending), f"look up {name}")
        return await asyncio.shield(pending)

    async def _look_up(self, name: str, pending: asyncio.Future[Remembered]) -> None:
        result = None
        try:
            answers = await asyncio.gather(*(self._ask(name, kind) for kind in TYPES), return_exceptions=True)
            result = self._judge(name, answers)
        finally:
            del self._pending[name]
            if not pending.done():
                pending.set_result(result or self._names.failed(name, "the lookup was broken off", self._clock()))

    def _judge(self, name: str, answers: list[tuple[tuple[str, ...], float] | BaseException]) -> Remembered:
        now = self._clock()
        good = [answer for answer in answers if not isinstance(answer, BaseException)]
        addresses = tuple(dict.fromkeys(address for found, _ in good for address in found))
        outside = tuple(address for address in addresses if is_outside(address))
        if outside:
            return self._names.found(name, outside, min(ttl for found, ttl in good if found), now)
        if addresses:
            why = (
                f"its addresses ({', '.join(addresses[:3])}) are not of another host: loopback, multicast or link-local"
            )
            return self._names.missing(name, why, now)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in failures:
            if not isinstance(failure, (dns.exception.DNSException, OSError, ValueError)):
                raise failure
        if any(isinstance(failure, dns.resolver.NXDOMAIN) for failure in failures):
            return self._names.missing(name, "no such name", now)
        if failures:
            return self._names.failed(name, str(failures[0]) or type(failures[0]).__name__, now)
        return self._names.missing(name, "the name has no address", now)
