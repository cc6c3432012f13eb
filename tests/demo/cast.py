"""The programs of the demo, real ones with private settings, and where each runs."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.netns import programs, resources
from tests.netns.containers import Container, Podman, Runc
from tests.netns.lab import Mesh, Node, eventually
from tests.netns.pods import Pod
from tests.netns.shop import TARGET_PORT
from tests.netns.spot import Spot
from tests.netns.town import workload_of

WEB, WEB_6 = "240.240.0.10", "fd6d:6573:68::10"
REDIS, REDIS_6 = "240.240.0.20", "fd6d:6573:68::20"
APP, APP_6 = "240.240.0.30", "fd6d:6573:68::30"
DATABASE, DATABASE_6 = "240.240.0.40", "fd6d:6573:68::40"
STALL, STALL_6 = "240.240.0.50", "fd6d:6573:68::50"
WEB_PORT, REDIS_PORT, APP_PORT, DATABASE_PORT = 8080, 6379, 8000, 5432
NOBODY = "10.77.0.53"
"""The resolver that all programs are told to ask. It does not exist: the agents answer for the names of the mesh."""

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
        self.database = mesh.spot_of(mesh.b, "database")
        self.spots = [mesh.spot_of(mesh.a, "client") for _ in range(2)]
        """More processes of the client, for connections side by side."""
        self.pods = [Pod(mesh, mesh.a, "kiosk", 1), Pod(mesh, mesh.b, "stall", 1)]
        """Network namespaces for containers, one on each node."""
        self.containers: list[Container] = []
        self._running = ExitStack()

    @property
    def workloads(self) -> dict[str, tuple[Node, Spot]]:
        """Name -> node and cgroup, of those that are programs of the node itself."""
        a, b = self.mesh.nodes
        return {
            "client": (a, self.client), "app": (a, self.app), "web": (b, self.web), "redis": (b, self.redis),
            "database": (b, self.database),
        }  # fmt: skip

    @property
    def spots_of_workloads(self) -> list[Spot]:
        """The cgroup of every workload."""
        return [spot for _, spot in self.workloads.values()] + [pod.spot for pod in self.pods]

    def declare(self) -> None:
        """Tell control of nodes, workloads and services, as an operator would."""
        self.mesh.apply(
            *(resources.workload(name, node.name) for name, (node, _) in self.workloads.items()),
            *(workload_of(pod) for pod in self.pods),
            resources.service("web", {80: WEB_PORT}, addresses=(WEB, WEB_6)),
            resources.service("redis", {REDIS_PORT: REDIS_PORT}, addresses=(REDIS, REDIS_6)),
            resources.service("app", {80: APP_PORT}, addresses=(APP, APP_6)),
            resources.service("database", {DATABASE_PORT: DATABASE_PORT}, addresses=(DATABASE, DATABASE_6)),
            resources.service("stall", {80: TARGET_PORT}, addresses=(STALL, STALL_6)),
        )
        self.resolver_file.write_text(f"nameserver {NOBODY}\nsearch shop.mesh.internal\n")

    def start(self) -> None:
        """Start nginx, redis-server, PostgreSQL and the app, each in its workload's cgroup, until they listen."""
        nginx, redis = self._directory("nginx"), self._directory("redis")
        configuration = nginx / "nginx.conf"
        configuration.write_text(NGINX.format(directory=nginx, port=WEB_PORT, secret=self.secret))
        self.web.spawn("nginx", "-e", "stderr", "-c", configuration, "-p", nginx)
        self.redis.spawn(
            "redis-server", "--port", str(REDIS_PORT), "--bind", "*", "-::*", "--protected-mode", "no", "--save", "",
            "--appendonly", "no", "--dir", redis,
        )  # fmt: skip
        names = {"WEB": "http://web.shop.mesh.internal/", "REDIS": f"redis.shop.mesh.internal:{REDIS_PORT}"}
        app = self.with_names(sys.executable, "-I", Path(__file__).with_name("app.py"))
        self.app.spawn(*app, env={"PORT": str(APP_PORT), **names})
        for spot, port in ((self.web, WEB_PORT), (self.redis, REDIS_PORT), (self.app, APP_PORT)):
            eventually(lambda s=spot, p=port: _listens(s, p), what=f"something listens in {spot.cgroup} on port {port}")

        directory = self.mesh.place.directory / "postgres"
        admits = self.mesh.a.v4, self.mesh.a.v6
        self._running.enter_context(programs.postgres(self.database, directory, DATABASE_PORT, admits=admits))

    def start_containers(self) -> None:
        """A web server of busybox in a container of runc on node-a, and in one of podman on node-b."""
        for runtime, pod in zip((Runc, Podman), self.pods, strict=True):
            container = runtime(pod)
            (container.directory / "rootfs/etc/resolv.conf").write_text(self.resolver_file.read_text())
            self.containers.append(self._running.enter_context(container))

    def end(self) -> None:
        """What runtimes have to take away themselves."""
        self._running.close()
        for pod in self.pods:
            pod.remove()

    @property
    def resolver_file(self) -> Path:
        """What programs find as /etc/resolv.conf."""
        return self.mesh.place.directory / "resolv.conf"

    def with_names(self, *argv: str | Path) -> list[str]:
        """The command, with that file in its place."""
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, str(self.resolver_file), *map(str, argv)]

    def pgbench(self, *argv: str) -> str:
        """pgbench from the client to the database, by name; OSError with its words if it fails."""
        program = max(programs.POSTGRES.glob("*/bin")) / "pgbench"
        where = ("-h", "database.shop.mesh.internal", "-p", str(DATABASE_PORT), "-U", "postgres", "postgres")
        done: subprocess.CompletedProcess[bytes] = self.client.run(
            *self.with_names(program, *argv, *where), timeout=120
        )
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace").strip())
        return done.stdout.decode()

    def curl(self, spot: Spot, url: str, *options: str) -> str:
        """GET by curl from a spot; OSError with curl's words if it fails."""
        settings = ("--silent", "--show-error", "--fail", "--max-time", "10", *options)
        done = spot.run(*self.with_names("curl", *settings, url))
        if done.returncode != 0:
            raise OSError(done.stderr.decode().strip())
        return done.stdout.decode().strip()

    def redis_cli(self, *argv: str, stdin: bytes = b"", spot: Spot | None = None) -> bytes:
        """redis-cli from the client; OSError with its words if it fails."""
        command = self.with_names("redis-cli", "-h", "redis.shop.mesh.internal", "-p", str(REDIS_PORT), *argv)
        done = (spot or self.client).run(*command, stdin=stdin)
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
