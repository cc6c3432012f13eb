"""Real servers with private settings, started in a spot and killed at the end of a block."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.netns.lab import eventually, tail
from tests.netns.spot import Spot

NGINX = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
  log_format from '$remote_addr $remote_port';
  access_log {directory}/requests.log from;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen [::]:{port} ipv6only=off;
    location / {{ return 200 "hello"; }}
    location /guests {{ allow {v4}; allow {v6}; deny all; root {directory}; }}
  }}
}}
"""
POSTGRES = Path("/usr/lib/postgresql")
AS_POSTGRES = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups")
"""PostgreSQL refuses to run as root."""


@contextlib.contextmanager
def running(spot: Spot, port: int, log: Path, *argv: str | Path) -> Iterator[None]:
    """The program, once it listens; killed when the block ends."""

    def listens() -> bool:
        assert process.poll() is None, f"{argv[0]} ended: {tail(log)}"
        with spot.connect("127.0.0.1", port):
            return True

    process = spot.spawn(*argv, log=log)
    try:
        eventually(listens, within=30, what=f"{argv[0]} listens; its log: {tail(log)}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def nginx(spot: Spot, directory: Path, port: int, *, admits: tuple[str, str]) -> Iterator[Path]:
    """nginx on all addresses, dual stack; its access log says ``address port``. ``/guests`` is for ``admits`` only."""
    directory.mkdir()
    configuration = directory / "nginx.conf"
    (directory / "guests").write_text("welcome")
    configuration.write_text(NGINX.format(directory=directory, port=port, v4=admits[0], v6=admits[1]))
    with running(spot, port, directory / "log", "nginx", "-e", "stderr", "-c", configuration, "-p", directory):
        yield directory / "requests.log"


@contextlib.contextmanager
def redis(spot: Spot, directory: Path, port: int) -> Iterator[None]:
    """redis on all addresses, a socket for each family."""
    directory.mkdir()
    settings = ("--port", str(port), "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", directory)
    with running(spot, port, directory / "log", "redis-server", *settings):
        yield


@contextlib.contextmanager
def postgres(spot: Spot, directory: Path, port: int, *, admits: tuple[str, str]) -> Iterator[None]:
    """PostgreSQL on all addresses, whose pg_hba.conf lets in ``admits`` and nobody else."""
    programs = max(POSTGRES.glob("*/bin"))
    directory.mkdir()
    subprocess.run(["chown", "postgres:postgres", directory], check=True)
    data = directory / "data"
    initdb = [
        *AS_POSTGRES,
        programs / "initdb",
        "-D",
        data,
        "--no-sync",
        "--locale=C",
        "-U",
        "postgres",
        "-A",
        "reject",
    ]
    subprocess.run(initdb, check=True, capture_output=True)
    rules = [f"host all all {admits[0]}/32 trust", f"host all all {admits[1]}/128 trust"]
    (data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
    settings = ("-k", directory, "-p", str(port), "-c", "listen_addresses=*", "-c", "fsync=off")
    with running(spot, port, directory / "log", *AS_POSTGRES, programs / "postgres", "-D", data, *settings):
        yield
