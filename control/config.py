"""Control's settings: read from flags and environment by ``main``, all mistakes reported together, then frozen."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from control.wire.address import AddressError, SocketAddress, canonical_ip, parse_socket_address
from control.wire.ids import DEFAULT_DOMAIN, DEFAULT_TRUST_DOMAIN, SpiffeIdError, check_domain, check_trust_domain

DEFAULT_STATE_DIR = "/var/lib/nodemesh-control"
DEFAULT_LISTEN = "[::]:15010"
DEFAULT_CLUSTER = "nodemesh"
DEFAULT_LIFETIME = 24 * 3600.0
MIN_LIFETIME = 2.0
MAX_LIFETIME = 30 * 24 * 3600.0
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""Always among the names of the server certificate: an operator on the host needs no other."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ConfigError(Exception):
    """Settings are wrong; the message has one line for each mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How control is to run."""

    state_dir: Path
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    domain: str = DEFAULT_DOMAIN
    """The DNS suffix of services."""
    cluster: str = DEFAULT_CLUSTER
    listen: SocketAddress
    names: tuple[str, ...] = LOCAL_NAMES
    """Host names and addresses that agents and operators reach it by: SANs of its certificate."""
    svid_lifetime: float = DEFAULT_LIFETIME
    """Seconds."""
    node_lifetime: float = DEFAULT_LIFETIME
    server_lifetime: float = DEFAULT_LIFETIME


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The same as text, as flags and environment give it."""

    state_dir: str = DEFAULT_STATE_DIR
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    domain: str = DEFAULT_DOMAIN
    cluster: str = DEFAULT_CLUSTER
    listen: str = DEFAULT_LISTEN
    advertise: tuple[str, ...] = ()
    svid_lifetime: str = "24h"
    node_lifetime: str = "24h"


def load(settings: Settings) -> Config:
    """Read everything, then fail for all mistakes at once."""
    mistakes: list[str] = []
    try:
        check_trust_domain(settings.trust_domain)
    except SpiffeIdError as error:
        mistakes.append(f"--trust-domain: {error}")
    try:
        check_domain(settings.domain)
    except ValueError as error:
        mistakes.append(f"--domain: {error}")
    listen = parse_socket_address(DEFAULT_LISTEN)
    try:
        listen = _listen(settings.listen)
    except AddressError as error:
        mistakes.append(f"--listen: {error}")
    if not settings.cluster or len(settings.cluster) > 63 or not settings.cluster.isprintable():
        mistakes.append("--cluster: 1 to 63 printable characters")
    names = _names(settings.advertise, listen, mistakes)
    lifetimes = [
        _lifetime(flag, text, mistakes)
        for flag, text in (("--svid-lifetime", settings.svid_lifetime), ("--node-lifetime", settings.node_lifetime))
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return Config(
        state_dir=Path(settings.state_dir).absolute(),
        trust_domain=settings.trust_domain,
        domain=settings.domain,
        cluster=settings.cluster,
        listen=listen,
        names=names,
        svid_lifetime=lifetimes[0],
        node_lifetime=lifetimes[1],
    )


def _listen(text: str) -> SocketAddress:
    if text.endswith(":0"):
        # The kernel picks a port: for tests.
        return SocketAddress(parse_socket_address(text[:-1] + "1").ip, 0)
    return parse_socket_address(text)


def _names(advertise: tuple[str, ...], listen: SocketAddress, mistakes: list[str]) -> tuple[str, ...]:
    found = list(LOCAL_NAMES)
    host = socket.gethostname()
    for name in (*advertise, *([] if advertise else [host])):
        try:
            found.append(canonical_ip(name))
        except AddressError:
            if _is_host(name):
                found.append(name.lower())
            elif name != host:
                mistakes.append(f"--advertise: {name!r} is neither a host name nor an address")
    if listen.ip not in ("::", "0.0.0.0"):
        found.append(listen.ip)
    return tuple(dict.fromkeys(found))


def _is_host(name: str) -> bool:
    labels = name.split(".")
    return (
        0 < len(name) <= 253
        and name.isascii()
        and all(
            0 < len(label) <= 63 and label.replace("-", "").isalnum() and label.strip("-") == label for label in labels
        )
    )


def _lifetime(flag: str, text: str, mistakes: list[str]) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        mistakes.append(f"{flag}: {error}")
        return DEFAULT_LIFETIME
    if not MIN_LIFETIME <= seconds <= MAX_LIFETIME:
        mistakes.append(f"{flag}: {text} is out of bounds ({MIN_LIFETIME:.0f}s to {MAX_LIFETIME / 86400:.0f}d)")
    return seconds


def duration(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``24h`` or ``7d`` in seconds; ValueError otherwise."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not number.isascii() or not number.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 15m, 24h or 7d")
    return float(number) * _UNITS[unit]
