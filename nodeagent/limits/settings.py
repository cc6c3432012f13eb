"""The figures. Each is a setting ``limits.<name>`` of the agent; those of a worker hold for each worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Whole numbers of at least 1. ``peer``: an IPv4 address, or the /64 network of an IPv6 address."""

    unproved: int = 2048
    """Connections to the tunnel port that have proved no identity yet, of all peers, for each worker."""
    unproved_per_peer: int = 512
    handshakes_at_once_per_peer: int = 128
    """TLS handshakes of one peer that may be unfinished at one time, for each worker. Further ones wait."""
    handshakes_per_peer: int = 200
    """TLS handshakes that one peer may begin in a second, for each worker; twice as many at once. Further ones wait."""
    tunnels_per_peer: int = 2048
    """Authenticated tunnels of one peer, for each worker."""
    flows_per_workload: int = 32_768
    """Connections of one workload, one remote identity or one plaintext client, for each worker."""
    dns_questions_per_workload: int = 256
    """Questions of one workload that wait for a resolver, for each worker."""
    dns_connections_per_workload: int = 128
    """TCP connections of one workload to resolvers, for each worker."""
    admin_connections: int = 256
    """Connections to each of the ports 15000, 15020 and 15021."""
    admin_connections_per_peer: int = 64
    refused_lines: int = 10
    """Access log lines in a second about refused connections of one source, for each worker; then one with the sum."""
    access_lines: int = 1000
    """The same about connections that were established."""
