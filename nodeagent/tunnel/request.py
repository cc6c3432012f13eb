"""What a stream asks for: the CONNECT request of HBONE, built and read.

Source: istio/ztunnel (``:authority``, ``forwarded``, ``baggage``, ``traceparent``), RFC 7239 (forwarded), W3C baggage
and trace context. Only ``:authority`` decides anything. ``forwarded`` and ``baggage`` are claims: whoever uses them
checks them against the registry and the identity that TLS proved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from control.wire.address import AddressError, SocketAddress, parse_port, parse_socket_address
from nodeagent.http2.headers import Headers

AGENT_PORTS: Final = frozenset({15001, 15006, 15008})
"""Never a target: a tunnel into an agent's own port would be a loop or a way around policy (as in ztunnel)."""
MAX_BAGGAGE_ITEMS: Final = 32
MAX_HOSTNAME: Final = 253

_TRACE_PARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z")
_FORWARDED_FOR = re.compile(r'(?:^|[;,])\s*for="?([^";,]+)"?', re.IGNORECASE)
_FORWARDED_HOST = re.compile(r'(?:^|[;,])\s*host="?([^";,]+)"?', re.IGNORECASE)
_FORWARDED_AS_WE_DO = re.compile(r'for="([^";,]+)";host=([^";,]+)\Z')
"""What ``connect_headers`` writes; the two before it read this alike, and slower."""
_CLAIMED_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,260}\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_BAGGAGE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")
_FIELD_NAME = re.compile(r":?[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_KNOWN_NAMES: Final = frozenset({":method", ":authority", "forwarded", "baggage", "traceparent"})
MAX_REMEMBERED: Final = 1024
"""Authorities and baggages whose reading is remembered: a tunnel's requests repeat them."""
_NEVER_IN_A_VALUE = re.compile(r"[\x00\r\n]")


class BadRequestError(ValueError):
    """The request is not an HBONE CONNECT; it is answered with 400."""


@dataclass(frozen=True, slots=True)
class Hostname:
    """An authority that names a service and its service port instead of an address."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """The target, and what the source's agent claims about the connection."""

    authority: SocketAddress | Hostname
    forwarded_for: SocketAddress | None = None
    forwarded_host: str = ""
    baggage: Mapping[str, str] = field(default_factory=dict)
    trace_parent: str = ""


def connect_headers(request: ConnectRequest) -> Headers:
    """The header list of a request, pseudo-headers first. A claim that a header cannot carry is left out."""
    headers = [(":method", "CONNECT"), (":authority", str(request.authority))]
    forwarded = [] if request.forwarded_for is None else [f'for="{request.forwarded_for}"']
    if _CLAIMED_HOST.match(request.forwarded_host):
        forwarded.append(f"host={request.forwarded_host}")
    if forwarded:
        headers.append(("forwarded", ";".join(forwarded)))
    baggage = _baggage_text(tuple(request.baggage.items()))
    if baggage:
        headers.append(("baggage", baggage))
    if _TRACE_PARENT.match(request.trace_parent):
        headers.append(("traceparent", request.trace_parent))
    return headers


def read_connect(headers: Headers) -> ConnectRequest:
    """The request in a header list; BadRequestError says what keeps it from being one.

    A claim that cannot be read is dropped: it would not have decided anything.
    """
    pseudo, plain = _sorted_out(headers)
    if pseudo.get(":method") != "CONNECT":
        raise BadRequestError(f"method {pseudo.get(':method')!r}; only CONNECT is served here")
    for name in pseudo:
        if name not in (":method", ":authority"):
            raise BadRequestError(f"a CONNECT request carries no {name}")
    authority = _authority(pseudo.get(":authority", ""))
    if authority.port in AGENT_PORTS:
        raise BadRequestError(f"port {authority.port} belongs to the agent and is never a target")
    claimed_address, claimed_host = _forwarded(plain.get("forwarded", ""))
    trace_parent = plain.get("traceparent", "")
    return ConnectRequest(
        authority=authority,
        forwarded_for=_address(claimed_address),
        forwarded_host=claimed_host if _CLAIMED_HOST.match(claimed_host) else "",
        baggage=_baggage(plain.get("baggage", "")),
        trace_parent=trace_parent if _TRACE_PARENT.match(trace_parent) else "",
    )


def _sorted_out(headers: Headers) -> tuple[dict[str, str], dict[str, str]]:
    """Pseudo-headers and others."""
    pseudo: dict[str, str] = {}
    plain: dict[str, str] = {}
    for name, value in headers:
        if name not in _KNOWN_NAMES and not _FIELD_NAME.match(name):
            raise BadRequestError(f"{name!r} is not a header name (lower case, no blanks)")
        if not value.isprintable() and _NEVER_IN_A_VALUE.search(value):
            raise BadRequestError(f"the value of {name} holds a line break or NUL")
        if not name.startswith(":"):
            plain[name] = value
            continue
        if plain or name in pseudo:
            raise BadRequestError(f"{name} is repeated or comes after ordinary headers")
        pseudo[name] = value
    return pseudo, plain


@lru_cache(MAX_REMEMBERED)
def _authority(text: str) -> SocketAddress | Hostname:
    if not text:
        raise BadRequestError("a CONNECT request needs an :authority")
    host, _, port = text.rpartition(":")
    if host and not host.startswith("[") and len(host) <= MAX_HOSTNAME and _HOSTNAME.match(host) and not _is_ipv4(host):
        try:
            return Hostname(host, parse_port(port))
        except AddressError as error:
            raise BadRequestError(f":authority: {error}") from error
    try:
        return parse_socket_address(text)
    except AddressError as error:
        raise BadRequestError(f":authority: {error}") from error


def _is_ipv4(text: str) -> bool:
    return text.replace(".", "").isdigit()


def _match(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""


def _forwarded(text: str) -> tuple[str, str]:
    """The address and the host that it names."""
    ours = _FORWARDED_AS_WE_DO.match(text)
    if ours is not None:
        return ours[1], ours[2]
    return _match(_FORWARDED_FOR, text), _match(_FORWARDED_HOST, text)


def _address(claimed: str) -> SocketAddress | None:
    if not claimed:
        return None
    try:
        return parse_socket_address(claimed)
    except AddressError:
        return None


@lru_cache(MAX_REMEMBERED)
def _baggage(text: str) -> Mapping[str, str]:
    items: dict[str, str] = {}
    for part in text.split(",", MAX_BAGGAGE_ITEMS)[:MAX_BAGGAGE_ITEMS]:
        key, separator, value = part.partition("=")
        if separator:
            items[key.strip()] = value.partition(";")[0].strip()
    return MappingProxyType(_clean(items))


@lru_cache(MAX_REMEMBERED)
def _baggage_text(items: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f"{key}={value}" for key, value in _clean(dict(items)).items())


def _clean(baggage: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in baggage.items() if _TOKEN.match(key) and _BAGGAGE_VALUE.match(value)}


def status_of(headers: Headers) -> int:
    """The status of an answer; 0 where there is none that can be read."""
    for name, value in headers:
        if name == ":status":
            return int(value) if len(value) == 3 and value.isascii() and value.isdigit() else 0
    return 0
