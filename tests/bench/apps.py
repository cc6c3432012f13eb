"""The server programs behind every system, started at the system's place for servers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.compiled import bulk_program
from tests.bench.processes import Place, Process, running, wait_listening
from tests.bench.systems.base import App

BODY_OCTETS = 100
"""Of an answer of the HTTP server."""

ECHO_PROGRAM = Path(__file__).parent / "clients" / "echo.py"

NGINX = """
daemon off;
master_process off;
pid {scratch}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location / {{ default_type text/plain; return 200 "{body}"; }}
    }}
}}
"""
"""One process, which serves. By default nginx closes a connection after 1000 requests: that would be measured too."""


def echo_command(*arguments: str) -> list[str]:
    """The echo program, started without site-packages."""
    return [sys.executable, "-I", "-S", str(ECHO_PROGRAM), *arguments]


def _command(app: App, scratch: Path) -> list[str]:
    match app:
        case App.HTTP:
            config = scratch / "nginx.conf"
            config.write_text(NGINX.format(scratch=scratch, port=app.value, body="x" * BODY_OCTETS))
            return ["nginx", "-p", str(scratch), "-e", "stderr", "-c", str(config)]
        case App.ECHO:
            return echo_command("serve", str(app.value))
        case App.BULK:
            return [str(bulk_program()), "serve", str(app.value)]
        case App.IPERF3:
            return ["iperf3", "-s", "-p", str(app.value)]


@contextlib.contextmanager
def serving(app: App, place: Place, scratch: Path) -> Iterator[Process]:
    """The server program while the block runs; listening on entry."""
    name = app.name.lower()
    with running(f"server {name}", place, _command(app, scratch), scratch / f"server-{name}.log") as process:
        wait_listening(process, [app.value])
        yield process
