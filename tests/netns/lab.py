"""A mesh in a place: control on the first node, an agent on each, workloads in cgroups. All real, all removed.

    with Mesh() as mesh:
        client = mesh.workload("client", node=mesh.a)
        web = mesh.workload("web", node=mesh.b)
        mesh.apply(service("web", ports={80: 8080}))
        mesh.wait_enrolled(client, web)
        connection = client.connect(VIP["web"], 80)

Several meshes can run at the same time, by several programs.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml

from nodeagent.manager.splice import TESTING
from tests.netns import reading
from tests.netns import resources as written
from tests.netns.place import Place, Site, kill_all, processes
from tests.netns.spot import Spot
from tests.support.pace import SLOW, patient

T = TypeVar("T")
BIN = Path(sys.executable).parent
CONTROL_PORT = 15010
START_SECONDS = 40.0
STOP_SECONDS = 20.0
NAMESPACE = "shop"
TRUST_DOMAIN = "mesh.internal"
RUNTIMES = ("{place}/runc", "{place}/crun", "{place}/docker/exec/runtime-*/*", "{place}/containerd/runc/*")
"""Where the runtimes of stories keep the state of their containers."""


class LabError(Exception):
    """The mesh did not come up or a command of its operator failed; the text holds the output."""


def eventually(check: Callable[[], T], *, within: float = 10.0, what: str = "") -> T:
    """The first true answer of `check`; AssertionErrors and OSErrors mean: not yet. Fails with the last one."""
    within = patient(within)
    deadline = time.monotonic() + within
    last: BaseException | None = None
    pause = 0.01
    while True:
        try:
            if answer := check():
                return answer
            last = None
        except (AssertionError, OSError, reading.ReadingError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or check.__name__} ({last!r})") from last
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


class Node:
    """One node: its agent, and a spot outside the mesh."""

    def __init__(self, mesh: Mesh, site: Site) -> None:
        self.mesh = mesh
        self.site = site
        self.name = site.node
        self.v4, self.v6 = site.v4, site.v6
        self.state_dir = mesh.place.directory / site.node
        self.log = mesh.place.logs / f"{site.node}.log"
        self.access_log = mesh.place.logs / f"{site.node}.access.log"
        self.agent: subprocess.Popen[bytes] | None = None
        self.outside = self.spot("outside")
        self.system = self.spot("system")
        """Where the agent itself runs."""

    def spot(self, cgroup: str) -> Spot:
        """A cgroup of this node, whether or not a workload selects it."""
        log = self.mesh.place.logs / f"{self.name}.{cgroup.replace('/', '.')}.log"
        return self.mesh.keep(Spot(self.site, cgroup, log=log, env=self.mesh.env))

    @property
    def settings(self) -> dict[str, str]:
        """The agent's environment."""
        token = self.mesh.place.directory / f"{self.name}.token"
        return {
            "NODEMESH_NODE": self.name,
            "NODEMESH_CONTROL": self.mesh.control_url,
            "NODEMESH_TOKEN_FILE": str(token),
            "NODEMESH_STATE_DIR": str(self.state_dir),
            "NODEMESH_RUN_DIR": str(self.mesh.place.directory / f"{self.name}.run"),
            "NODEMESH_CGROUP_ROOT": str(self.site.cgroup),
            "NODEMESH_BPFFS": str(self.mesh.place.bpffs),
            "NODEMESH_INSTANCE": self.name,
            "NODEMESH_CONTAINERS_OCI": ",".join(RUNTIMES).format(place=self.mesh.place.directory),
            "NODEMESH_CONTAINERS_DOCKER": str(self.mesh.place.directory / "docker/data"),
            "NODEMESH_CONTAINERS_CONTAINERD": str(self.mesh.place.directory / "containerd/root"),
            "NODEMESH_CONTAINERS_PODMAN": str(self.mesh.place.directory / "podman/store"),
            "NODEMESH_ACCESS_LOG": str(self.access_log),
            "NODEMESH_LOG_LEVEL": "info",
            **self.mesh.agent_settings,
        }

    def start_agent(self) -> None:
        """Start the agent (a token is made if the node never joined) and wait until it is ready."""
        if not self.state_dir.exists():
            self.state_dir.mkdir()
            token = self.mesh.place.directory / f"{self.name}.token"
            token.write_text(self.mesh.token(self.name))
            token.chmod(0o600)
        self.agent = self.system.spawn(BIN / "nodeagent", "run", env=self.settings, log=self.log)

    def wait_ready(self) -> None:
        """Until /ready says 200, and it is known whether flows are spliced: those that began before are relayed."""

        def ready() -> bool:
            if self.agent is not None and self.agent.poll() is not None:
                raise LabError(f"the agent of {self.name} exited with {self.agent.returncode}: {tail(self.log)}")
            if reading.get(self.outside, 15021, "/ready")[0] != 200:
                return False
            return bool(reading.debug(self.outside, "/debug/status")["splice"]["why_not"] != TESTING)

        eventually(ready, within=START_SECONDS, what=f"{self.name} ready; its log: {tail(self.log)}")

    def stop_agent(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the agent and wait until all of its processes are gone; its exit status."""
        assert self.agent is not None
        processes = self.agent_processes()
        self.agent.send_signal(how)
        status = self.agent.wait(patient(STOP_SECONDS))
        eventually(
            lambda: all(reading.gone(pid) for pid in processes) and not self.agent_processes(),
            within=STOP_SECONDS,
            what="the workers end with their manager",
        )
        self.agent = None
        return status

    def agent_processes(self) -> list[int]:
        """Manager and workers, by the cgroup they run in."""
        return processes(self.system.cgroup)

    def nodeagent(self, *argv: str) -> Any:
        """The answer of `nodeagent <argv> -o json` on this node."""
        done = self.outside.run(BIN / "nodeagent", *argv, env=self.settings)
        if done.returncode != 0:
            raise LabError(f"nodeagent {' '.join(argv)}: {done.stderr.decode()}{done.stdout.decode()}")
        return json.loads(done.stdout) if "json" in argv else done.stdout.decode()

    def descriptors(self) -> int:
        """Open file descriptors of all of the agent's processes."""
        return sum(reading.descriptors(pid) for pid in self.agent_processes())

    def metrics(self) -> list[reading.Sample]:
        """What /metrics exports now."""
        return reading.metrics(self.outside)

    def access(self, *, since: int = 0, **wanted: str) -> list[dict[str, str]]:
        """Access-log lines whose fields have these values (write ``.`` in a key as ``_``), from a position on."""
        return reading.access_log(self.access_log, wanted, since)

    def access_position(self) -> int:
        """Where the access log ends now."""
        return self.access_log.stat().st_size if self.access_log.exists() else 0


class Mesh:
    """Control and two agents. A context manager; `start` and `stop` where a `with` does not fit."""

    def __init__(
        self,
        *,
        name: str | None = None,
        control_options: tuple[str, ...] = (),
        agent_settings: dict[str, str] | None = None,
        keep: bool = False,
    ) -> None:
        self.place = Place(name) if name else Place()
        self.control_options = control_options
        self.agent_settings = agent_settings or {}
        self._keep = keep
        self._spots: list[Spot] = []
        self.control: subprocess.Popen[bytes] | None = None
        self.nodes: list[Node] = [Node(self, site) for site in self.place.sites]
        self.a, self.b = self.nodes
        self.control_spot = self.a.spot("control")

    # --- what is where ---
    @property
    def control_url(self) -> str:
        return f"https://{self.place.sites[0].v4}:{CONTROL_PORT}"

    @property
    def control_state(self) -> Path:
        return self.place.directory / "control"

    @property
    def env(self) -> dict[str, str]:
        """The environment of everything that runs in the lab: nothing of the caller's."""
        return {
            "PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.place.directory),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "MESH_SLOW": str(SLOW),
            "NODEMESH_CONTROL": self.control_url,
            "NODEMESH_CREDENTIALS": str(self.control_state / "operator"),
        }

    # --- life ---
    def __enter__(self) -> Mesh:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.report(), file=sys.stderr)
        self.stop()

    def start(self) -> None:
        """Bring everything up and wait until it is ready."""
        self.place.create(keep=self._keep)
        try:
            self.start_control()
            self.apply(*(written.node(node.name, node.v4, node.v6) for node in self.nodes))
            with ThreadPoolExecutor(len(self.nodes)) as side_by_side:  # each is a chain of programs that start
                list(side_by_side.map(Node.start_agent, self.nodes))
            for node in self.nodes:
                node.wait_ready()
        except BaseException:
            print(self.report(), file=sys.stderr)
            self.stop()
            raise

    def stop(self) -> None:
        """Kill everything and give the place back. Safe at any time, also twice."""
        kill_all(self.place.cgroup)
        for spot in self._spots:
            spot.close()
        self.place.remove()

    def detach(self) -> None:
        """Leave it running: end only what serves this program."""
        for spot in self._spots:
            spot.leave()

    def start_control(self) -> None:
        """Start control (again, on the same state) and wait until it answers its operator."""
        advertise = [word for address in (self.a.v4, self.a.v6) for word in ("--advertise", address)]
        self.control = self.control_spot.spawn(
            BIN / "control", "run", "--state-dir", self.control_state, "--listen", f"[::]:{CONTROL_PORT}",
            *advertise, *self.control_options, log=self.place.logs / "control.log",
        )  # fmt: skip
        eventually(self._control_answers, within=START_SECONDS, what="control answers meshctl status")

    def _control_answers(self) -> bool:
        if self.control is not None and self.control.poll() is not None:
            raise LabError(f"control exited with {self.control.returncode}: {tail(self.place.logs / 'control.log')}")
        with contextlib.closing(self.a.outside.connect("127.0.0.1", CONTROL_PORT)):
            pass
        return self.control_spot.run(BIN / "meshctl", "status").returncode == 0

    def stop_control(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End control."""
        assert self.control is not None
        self.control.send_signal(how)
        self.control.wait(patient(STOP_SECONDS))
        self.control = None

    # --- the operator ---
    def meshctl(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run meshctl on the first node with the operator's credentials."""
        raw = self.control_spot.run(BIN / "meshctl", *argv)
        done = subprocess.CompletedProcess(raw.args, raw.returncode, raw.stdout.decode(), raw.stderr.decode())
        if check and done.returncode != 0:
            raise LabError(f"meshctl {' '.join(map(str, argv))}: {done.stderr}{done.stdout}")
        return done

    def apply(self, *resources: dict[str, Any]) -> None:
        """Create or change resources."""
        self.meshctl("apply", "-f", self._write(resources))

    def delete(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        """Delete one resource."""
        self.meshctl("delete", kind, name, "-n", namespace)

    def _write(self, resources: tuple[dict[str, Any], ...]) -> Path:
        path = self.place.directory / "resources.yaml"
        path.write_text(yaml.safe_dump_all(resources))
        return path

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        """One resource as control holds it."""
        answer: dict[str, Any] = json.loads(self.meshctl("get", kind, name, "-n", namespace, "-o", "json").stdout)
        return answer

    @contextlib.contextmanager
    def applied(self, *resources: dict[str, Any]) -> Iterator[None]:
        """Resources for the time of a block."""
        self.apply(*resources)
        try:
            yield
        finally:
            self.meshctl("delete", "-f", self._write(resources))

    def token(self, node: str) -> str:
        """A one-time join token."""
        return self.meshctl("token", "create", "--node", node).stdout.strip()

    def spot_of(self, node: Node, name: str, namespace: str = NAMESPACE) -> Spot:
        """The cgroup that the workload of this name selects."""
        spot = node.spot(f"{namespace}/{name}")
        spot.cgroup.mkdir(parents=True, exist_ok=True)
        return spot

    def keep(self, spot: Spot) -> Spot:
        """Close it when the lab ends."""
        self._spots.append(spot)
        return spot

    def wait_enrolled(self, *spots: Spot, within: float = 15.0) -> None:
        """Until the agent of each spot takes its connections."""
        for spot in spots:
            node = next(node for node in self.nodes if node.name == spot.site.node)
            identifier = str(spot.cgroup.stat().st_ino)
            eventually(
                lambda n=node, i=identifier: i in reading.enrolled(n.outside),  # type: ignore[misc]
                within=within,
                what=f"{spot.cgroup} enrolled on {node.name}",
            )

    def report(self) -> str:
        """Where to look, and the ends of all logs."""
        lines = [f"lab {self.place.name}, everything in {self.place.directory}"]
        lines += [f"  look around: nsenter --net={site.netns_path} bash" for site in self.place.sites]
        for log in sorted(self.place.logs.glob("*.log")) if self.place.logs.is_dir() else []:
            if text := tail(log):
                lines += [f"--- {log.name}", text]
        return "\n".join(lines)


def tail(path: Path, lines: int = 25) -> str:
    """The end of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def identity(service_account: str, namespace: str = NAMESPACE) -> str:
    """The SPIFFE ID of a service account."""
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{service_account}"
