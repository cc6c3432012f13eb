"""HAProxy on both nodes, in TCP mode."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.certificates import SERVER_NAME, issue
from tests.bench.figures import Topology
from tests.bench.sites import LOOPBACK
from tests.bench.systems.base import App, Deployment
from tests.bench.systems.pair import ENTRY_PORTS, MAX_CONNECTIONS, THREADS, TLS_PORTS, deploy_pair, server_address

CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
"""AES-128 first, as Envoy chooses by itself; OpenSSL's default is the slower AES-256."""

COMMON = f"""
global
    nbthread {THREADS}
    maxconn {MAX_CONNECTIONS}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites {CIPHERS}
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-server-ciphersuites {CIPHERS}
defaults
    mode tcp
    maxconn {MAX_CONNECTIONS}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""
"""No log: every system runs without an access log."""


def client_config(address: str, ca: Path, pem: Path) -> str:
    """Plaintext in, mTLS out. TLS sessions are reused, HAProxy's default."""
    return COMMON + "".join(
        f"listen {app.name.lower()}\n"
        f"    bind {LOOPBACK}:{ENTRY_PORTS[app]}\n"
        f"    server peer {address}:{TLS_PORTS[app]} ssl crt {pem} ca-file {ca} verify required"
        f" sni str({SERVER_NAME}) verifyhost {SERVER_NAME}\n"
        for app in App
    )


def server_config(address: str, ca: Path, pem: Path) -> str:
    """mTLS in, plaintext to the application."""
    return COMMON + "".join(
        f"listen {app.name.lower()}\n"
        f"    bind {address}:{TLS_PORTS[app]} ssl crt {pem} ca-file {ca} verify required\n"
        f"    server app {LOOPBACK}:{app.value}\n"
        for app in App
    )


class HAProxy:
    """Debian's HAProxy."""

    name = "haproxy"
    has_proxies = True

    def version(self) -> str:
        return subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split("\n")[0]

    @contextlib.contextmanager
    def deploy(self, topology: Topology, scratch: Path) -> Iterator[Deployment]:
        credentials, address = issue(scratch), server_address(topology)
        texts = {
            "client": client_config(address, credentials.ca, credentials.client.both),
            "server": server_config(address, credentials.ca, credentials.server.both),
        }
        commands = {}
        for side, text in texts.items():
            path = scratch / f"{side}.cfg"
            path.write_text(text)
            commands[side] = ["haproxy", "-db", "-f", str(path)]
        with deploy_pair(self.name, topology, scratch, commands) as deployment:
            yield deployment
