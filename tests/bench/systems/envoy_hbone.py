"""Envoy on both nodes, connections carried as HTTP/2 CONNECT streams in mTLS tunnels that are reused: HBONE."""

from __future__ import annotations

from tests.bench.certificates import SERVER_NAME, Credentials
from tests.bench.sites import LOOPBACK
from tests.bench.systems.base import App
from tests.bench.systems.envoy import (
    TYPES,
    Json,
    address_of,
    client_tls,
    cluster,
    listener,
    server_tls,
    tcp_proxy,
)
from tests.bench.systems.pair import ENTRY_PORTS, MAX_CONNECTIONS, TLS_PORTS

HTTP2 = {"alpn_protocols": ["h2"]}
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HTTP_TYPES = f"{TYPES}.filters"


def client_config(address: str, credentials: Credentials) -> Json:
    """Plaintext in, one CONNECT stream for each connection out. Flow control windows at Envoy's defaults."""
    http2 = {"explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": MAX_CONNECTIONS}}}
    options = {HTTP_OPTIONS: {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", **http2}}
    transport = client_tls(credentials, **HTTP2)
    return {
        "static_resources": {
            "listeners": [listener(app, address_of(LOOPBACK, ENTRY_PORTS[app]), _tunnelled(app), None) for app in App],
            "clusters": [
                cluster(app, address_of(address, TLS_PORTS[app]), transport, typed_extension_protocol_options=options)
                for app in App
            ],
        }
    }


def _tunnelled(app: App) -> Json:
    return tcp_proxy(app, tunneling_config={"hostname": f"{SERVER_NAME}:{app.value}"})


def server_config(address: str, credentials: Credentials) -> Json:
    """CONNECT streams in, plaintext to the application."""
    transport = server_tls(credentials, **HTTP2)
    return {
        "static_resources": {
            "listeners": [
                listener(app, address_of(address, TLS_PORTS[app]), _terminated(app), transport) for app in App
            ],
            "clusters": [cluster(app, address_of(LOOPBACK, app.value), None) for app in App],
        }
    }


def _terminated(app: App) -> Json:
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": app.name.lower(),
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{HTTP_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": app.name.lower(),
            "codec_type": "HTTP2",
            "http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": MAX_CONNECTIONS},
            "stream_idle_timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{HTTP_TYPES}.http.router.v3.Router"},
                }
            ],
        },
    }
