"""The programs of the demo, real ones with private settings, and where each runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.netns import resources
from tests.netns.lab import Mesh, Node, eventually
from tests.netns.spot import Spot

WEB, WEB_6 = "240.240.0.10", "fd6d:6573:68::10"
REDIS, REDIS_6 = "240.240.0.20", "fd6d:6573:68::20"
APP, APP_6 = "240.240.0.30", "fd6d:6573:68::30"
WEB_PORT, REDIS_PORT, APP_PORT = 8080, 6379, 8000

NGINX = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
  log_format from '$remote_addr "$request" $status';
  access_log {directory}/requests.log from;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  keepalive_requests 1000000;
  server {{
    listen [::]:{port} ipv6only=off;
    location / {{ default_type text/plain; return 200 "the front page of nginx, secret word: {secret}\\n"; }}
  }}
}}
"""


@dataclass
class Cast:
    """Who plays, and where."""

    mesh: Mesh
    secret: str
    """A word on nginx's page and in redis's values, to be looked for on the wire."""

    def __post_init__(self) -> None:
        mesh = self.mesh
        self.client = mesh.spot_of(mesh.a, "client")
        self.app = mesh.spot_of(mesh.a, "app")
        self.web = mesh.spot_of(mesh.b, "web")
        self.redis = mesh.spot_of(mesh.b, "redis")
        self.outsider = mesh.a.outside
        self.spots = [mesh.spot_of(mesh.a, "client") for _ in range(2)]
        """More processes of the client, for connections side by side."""

    @property
    def workloads(self) -> dict[str, tuple[Node, Spot]]:
        """Name -> node and cgroup."""
        a, b = self.mesh.nodes
        return {"client": (a, self.client), "app": (a, self.app), "web": (b, self.web), "redis": (b, self.redis)}

    def declare(self) -> None:
        """Tell control of nodes, workloads and services, as an operator would."""
        self.mesh.apply(
            *(resources.workload(name, node.name) for name, (node, _) in self.workloads.items()),
            resources.service("web", {80: WEB_PORT}, addresses=(WEB, WEB_6)),
            resources.service("redis", {REDIS_PORT: REDIS_PORT}, addresses=(REDIS, REDIS_6)),
            resources.service("app", {80: APP_PORT}, addresses=(APP, APP_6)),
        )

    def start(self) -> None:
        """Start nginx, redis-server and the app, each in its workload's cgroup, and wait until they listen."""
        nginx, redis = self._directory("nginx"), self._directory("redis")
        configuration = nginx / "nginx.conf"
        configuration.write_text(NGINX.format(directory=nginx, port=WEB_PORT, secret=self.secret))
        self.web.spawn("nginx", "-e", "stderr", "-c", configuration, "-p", nginx)
        self.redis.spawn(
            "redis-server", "--port", str(REDIS_PORT), "--bind", "*", "-::*", "--protected-mode", "no", "--save", "",
            "--appendonly", "no", "--dir", redis,
        )  # fmt: skip
        self.app.spawn(
            sys.executable, "-I", Path(__file__).with_name("app.py"),
            env={"PORT": str(APP_PORT), "WEB": f"http://{WEB}/", "REDIS": f"{REDIS}:{REDIS_PORT}"},
        )  # fmt: skip
        for spot, port in ((self.web, WEB_PORT), (self.redis, REDIS_PORT), (self.app, APP_PORT)):
            eventually(lambda s=spot, p=port: _listens(s, p), what=f"something listens in {spot.cgroup} on port {port}")

    def curl(self, spot: Spot, url: str) -> str:
        """GET by curl from a spot; OSError with curl's words if it fails."""
        done = spot.run("curl", "--silent", "--show-error", "--fail", "--max-time", "10", url)
        if done.returncode != 0:
            raise OSError(done.stderr.decode().strip())
        return done.stdout.decode().strip()

    def redis_cli(self, *argv: str, stdin: bytes = b"", spot: Spot | None = None) -> bytes:
        """redis-cli from the client; OSError with its words if it fails."""
        done = (spot or self.client).run("redis-cli", "-h", REDIS, "-p", str(REDIS_PORT), *argv, stdin=stdin)
        if done.returncode != 0 or done.stdout.startswith((b"Error", b"(error)")):
            raise OSError((done.stderr or done.stdout).decode(errors="replace").strip())
        return done.stdout

    def web_clients(self) -> list[str]:
        """The client addresses that nginx logged."""
        log = self._directory("nginx") / "requests.log"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []

    def _directory(self, name: str) -> Path:
        directory = self.mesh.place.directory / name
        directory.mkdir(exist_ok=True)
        return directory


def _listens(spot: Spot, port: int) -> bool:
    """Asked from the workload itself: for anybody else the agent accepts, whether or not somebody listens."""
    with spot.connect("127.0.0.1", port):
        return True
