"""Wire policies made ready to match: patterns split by their star, networks as numbers, lists as sets.

A pattern or network that cannot be read makes the whole policy *broken*. A broken policy is never skipped: the
evaluator refuses every connection to what it selects, because nobody knows whom it would have refused.

Source: Istio's AuthorizationPolicy reference (security.istio.io/v1), "Source" and "Operation": exact match, prefix
match (``abc*``), suffix match (``*abc``), presence match (``*``); principals are compared without ``spiffe://``.
IPv4 and IPv6 are different families: ``::/0`` holds no IPv4 address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from control.wire.address import MAX_PORT
from control.wire.discovery import Action, AuthorizationPolicy, OperationMatch, PolicyRule, SourceMatch
from nodeagent.policy.connection import Connection

SPIFFE_PREFIX = "spiffe://"
MAX_CACHED_ADDRESSES = 4096
MAX_CACHED_POLICIES = 65536
_V4_MAPPED_BITS = 96


class CompileError(ValueError):
    """A list entry cannot be read; the message names the list and the entry."""


class Facts:
    """A connection in the form that checks compare."""

    __slots__ = ("connection", "namespace", "port", "principal")

    def __init__(self, connection: Connection) -> None:
        identity = connection.source_identity
        self.connection = connection
        self.port = connection.destination_port
        if identity is None:
            self.principal: str | None = None
            self.namespace: str | None = None
        else:
            self.principal = f"{identity.trust_domain}/{'/'.join(identity.segments)}"
            self.namespace = identity.namespace or None


@dataclass(frozen=True, slots=True)
class Check:
    """One list of a source or an operation: it holds if an entry matches, or, negated, if none does."""

    name: str
    """The field of the wire type, such as ``not_principals``."""
    entries: tuple[str, ...]
    negated: bool
    any_matches: Callable[[Facts], bool]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule: for each of its sources and operations, the lists that must all hold. Empty: any."""

    sources: tuple[tuple[Check, ...], ...]
    operations: tuple[tuple[Check, ...], ...]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy that can be evaluated."""

    uid: str
    action: Action
    rules: tuple[CompiledRule, ...]


@dataclass(frozen=True, slots=True)
class BrokenPolicy:
    """A policy that could not be read; ``detail`` says where."""

    uid: str
    detail: str


class PolicyCache:
    """Compiled policies by uid, as long as the wire object is the very same. Bounded; owned by whoever evaluates."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[AuthorizationPolicy, CompiledPolicy | BrokenPolicy]] = {}

    def get(self, policy: AuthorizationPolicy) -> CompiledPolicy | BrokenPolicy:
        """The compiled form, made at first use and again when the policy was replaced."""
        entry = self._entries.get(policy.uid)
        if entry is not None and entry[0] is policy:
            return entry[1]
        if entry is None and len(self._entries) >= MAX_CACHED_POLICIES:
            self._entries.clear()
        compiled = compile_policy(policy)
        self._entries[policy.uid] = (policy, compiled)
        return compiled

    def __len__(self) -> int:
        return len(self._entries)


def compile_policy(policy: AuthorizationPolicy) -> CompiledPolicy | BrokenPolicy:
    """Read every list of the policy; the first that cannot be read breaks it."""
    rules = []
    for index, rule in enumerate(policy.rules):
        try:
            rules.append(_rule(rule))
        except CompileError as error:
            return BrokenPolicy(policy.uid, f"rules[{index}].{error}")
    return CompiledPolicy(policy.uid, policy.action, tuple(rules))


def _rule(rule: PolicyRule) -> CompiledRule:
    return CompiledRule(
        tuple(_source(source, f"sources[{index}]") for index, source in enumerate(rule.sources)),
        tuple(_operation(operation, f"operations[{index}]") for index, operation in enumerate(rule.operations)),
    )


def _source(source: SourceMatch, path: str) -> tuple[Check, ...]:
    lists: list[tuple[str, tuple[str, ...], bool, Callable[[tuple[str, ...]], Callable[[Facts], bool]]]] = [
        ("principals", source.principals, False, _principals),
        ("not_principals", source.not_principals, True, _principals),
        ("namespaces", source.namespaces, False, _namespaces),
        ("not_namespaces", source.not_namespaces, True, _namespaces),
        ("ip_blocks", source.ip_blocks, False, _ip_blocks),
        ("not_ip_blocks", source.not_ip_blocks, True, _ip_blocks),
    ]
    checks = []
    for name, entries, negated, reader in lists:
        if not entries:
            continue
        try:
            checks.append(Check(name, entries, negated, reader(entries)))
        except CompileError as error:
            raise CompileError(f"{path}.{name}: {error}") from None
    return tuple(checks)


def _operation(operation: OperationMatch, path: str) -> tuple[Check, ...]:
    checks = []
    for name, ports, negated in (("ports", operation.ports, False), ("not_ports", operation.not_ports, True)):
        if not ports:
            continue
        for port in ports:
            if not 1 <= port <= MAX_PORT:
                raise CompileError(f"{path}.{name}: {port} is not a port (1 to {MAX_PORT})")
        checks.append(Check(name, tuple(str(port) for port in ports), negated, _ports(frozenset(ports))))
    return tuple(checks)


def _ports(ports: frozenset[int]) -> Callable[[Facts], bool]:
    return lambda facts: facts.port in ports


def _principals(entries: tuple[str, ...]) -> Callable[[Facts], bool]:
    matches = _patterns(tuple(entry.removeprefix(SPIFFE_PREFIX) for entry in entries))
    # no identity matches no principal, not even '*': so 'principals' refuses it and 'not_principals' lets it pass
    return lambda facts: facts.principal is not None and matches(facts.principal)


def _namespaces(entries: tuple[str, ...]) -> Callable[[Facts], bool]:
    matches = _patterns(entries)
    return lambda facts: facts.namespace is not None and matches(facts.namespace)


def _patterns(entries: tuple[str, ...]) -> Callable[[str], bool]:
    exact: set[str] = set()
    starts: list[str] = []
    ends: list[str] = []
    for entry in entries:
        stars = entry.count("*")
        if not entry:
            raise CompileError("an entry is empty")
        if stars > 1 or (stars and not (entry.startswith("*") or entry.endswith("*"))):
            raise CompileError(f"{entry!r}: one '*' may stand, at the start or at the end")
        if not stars:
            exact.add(entry)
        elif entry.endswith("*"):
            starts.append(entry[:-1])
        else:
            ends.append(entry[1:])
    exactly, prefixes, suffixes = frozenset(exact), tuple(starts), tuple(ends)
    if not prefixes and not suffixes:
        return exactly.__contains__
    return lambda text: text in exactly or text.startswith(prefixes) or text.endswith(suffixes)


def _ip_blocks(entries: tuple[str, ...]) -> Callable[[Facts], bool]:
    # by version and mask: a lookup costs one set probe for each length of prefix in use
    networks: dict[tuple[int, int], set[int]] = {}
    for entry in entries:
        version, mask, network = _network(entry)
        networks.setdefault((version, mask), set()).add(network)
    table = tuple((version, mask, frozenset(members)) for (version, mask), members in networks.items())

    def matches(facts: Facts) -> bool:
        family, number = address_number(facts.connection.source_ip)
        return any(version == family and number & mask in members for version, mask, members in table)

    return matches


def _network(entry: str) -> tuple[int, int, int]:
    """(version, mask, network): ``::ffff:a.b.c.d/n`` (n >= 96) is the IPv4 network ``a.b.c.d/(n-96)``."""
    text, slash, length = entry.partition("/")
    if slash and not (length.isascii() and length.isdigit()):
        raise CompileError(f"{entry!r} is not a CIDR prefix: write address/length")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise CompileError(f"{entry!r} is not an address or a CIDR prefix") from None
    bits = address.max_prefixlen
    prefix = int(length) if slash else bits
    if prefix > bits:
        raise CompileError(f"{entry!r}: the prefix is longer than {bits} bits")
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise CompileError(f"{entry!r} carries a scope id")
        if address.ipv4_mapped is not None and prefix >= _V4_MAPPED_BITS:
            address, prefix, bits = address.ipv4_mapped, prefix - _V4_MAPPED_BITS, 32
    mask = ((1 << prefix) - 1) << (bits - prefix)
    return address.version, mask, int(address) & mask


@lru_cache(maxsize=MAX_CACHED_ADDRESSES)
def address_number(ip: str) -> tuple[int, int]:
    """(4 or 6, the address as a number); a v4-mapped address is its IPv4 address. ValueError if it is not one."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)
