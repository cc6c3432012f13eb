"""Containers of real runtimes on a node of a lab, in the network namespace of a pod; their root is made on the spot."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.netns.lab import Mesh, Node, eventually
from tests.netns.place import cgroup2_mount
from tests.netns.pods import Pod, run
from tests.netns.shop import TARGET_PORT

BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "httpd", "wget", "cat", "echo", "sleep", "nc", "id", "ls")
WHO = "#!/bin/sh\necho 'Content-Type: text/plain'\necho\necho $REMOTE_ADDR\n"
STOP_SECONDS = 20.0
UNIFIED = Path("/sys/fs/cgroup")
"""Where programs look for cgroup v2 on a host that has nothing else, which is what most have."""


def under_cgroup2_alone(*argv: str) -> list[str]:
    """The command, where the host has cgroup v2 and nothing else: crun refuses a hybrid host whose v2 has a controller.

    A mount namespace of the command's own; the cgroups are those of the host.
    """
    if cgroup2_mount() == UNIFIED:
        return [*argv]
    mounts = f'umount --recursive --lazy {UNIFIED} && mount -t cgroup2 cgroup2 {UNIFIED} && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "sh", *argv]


def make_root(directory: Path, greeting: str) -> Path:
    """A root file system: busybox, a page that says ``greeting``, and one that says who asks for it."""
    root = directory / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "run", "www/cgi-bin"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "www/index.html").write_text(greeting)
    (root / "www/cgi-bin/who").write_text(WHO)
    (root / "www/cgi-bin/who").chmod(0o755)
    return root


class Container:
    """A web server in the pod's namespace, in a cgroup of its own below that of the pod's workload. A context manager.

    What differs between runtimes is in the subclasses.
    """

    SERVER = ("httpd", "-f", "-p", str(TARGET_PORT), "-h", "/www")

    def __init__(self, pod: Pod, **labels: str) -> None:
        self.pod = pod
        self.labels = labels
        self.hook: dict[str, Any] = {}
        """As the runtime's configuration has it."""
        self.id = pod.site.netns
        self.directory = pod.mesh.place.directory / f"container-{pod.site.netns}"
        self.directory.mkdir()
        make_root(self.directory, f"this is {pod.name}\n")
        self.log = pod.mesh.place.logs / f"{pod.node.name}.container.{pod.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def parent(self) -> str:
        """The cgroup of the workload, from the mount point."""
        return f"/{self.pod.spot.cgroup.relative_to(cgroup2_mount())}"

    def command(self) -> list[str]:
        """Runs it in the foreground."""
        raise NotImplementedError

    def execute(self, *argv: str) -> list[str]:
        """Runs something more in it."""
        raise NotImplementedError

    def remove(self) -> None:
        """End it, and let the runtime clean up."""
        raise NotImplementedError

    def __enter__(self) -> Container:
        self.process = self.pod.node.outside.spawn(*self.command(), log=self.log)
        eventually(self._runs, within=20, what=f"{self.id} runs; {self.log.read_text()[-400:]}")
        return self

    def _runs(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        return self.run("echo", "up").stdout == b"up\n"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        if self.process is not None:
            self.process.wait(STOP_SECONDS)
        shutil.rmtree(self.directory)

    def run(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        """Something more in the container, to its end."""
        return self.pod.node.outside.run(*self.execute(*argv))

    def get(self, host: str, port: int, path: str = "/") -> str:
        """The page, as the container's own client sees it. OSError with the client's words if it gets none."""
        text = f"[{host}]" if ":" in host else host
        done = self.run("wget", "-q", "-O", "-", f"http://{text}:{port}{path}")
        if done.returncode != 0:
            raise OSError(done.stderr.decode().strip())
        return done.stdout.decode().strip()


class Runc(Container):
    """Of runc, from a bundle."""

    def command(self) -> list[str]:
        run("runc", "spec", "--bundle", self.directory)
        path = self.directory / "config.json"
        spec = json.loads(path.read_text())
        self.change(spec)
        path.write_text(json.dumps(spec))
        return [*self.runtime, "run", "--bundle", str(self.directory), self.id]

    def change(self, spec: dict[str, Any]) -> None:
        """Make an example of a configuration this container's."""
        spec["process"] |= {"terminal": False, "args": list(self.SERVER)}
        spec["hostname"] = self.pod.name
        spec["annotations"] = self.labels
        if self.hook:
            spec["hooks"] = {"createRuntime": [self.hook]}
        linux = spec["linux"]
        linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] not in ("network", "cgroup")]
        linux["namespaces"].append({"type": "network", "path": self.pod.site.netns_path})
        linux["cgroupsPath"] = f"{self.parent}/{self.id}"

    @property
    def runtime(self) -> list[str]:
        """The program, with the place of its state."""
        return ["runc", "--root", str(self.pod.mesh.place.directory / "runc")]

    def execute(self, *argv: str) -> list[str]:
        return [*self.runtime, "exec", self.id, *argv]

    def remove(self) -> None:
        subprocess.run([*self.runtime, "delete", "--force", self.id], check=False, capture_output=True)


class Crun(Runc):
    """Of crun, from the same bundle."""

    def change(self, spec: dict[str, Any]) -> None:
        super().change(spec)
        # its filter of devices raises a limit (RLIMIT_MEMLOCK), which a machine in a container may not do
        del spec["linux"]["resources"]

    @property
    def runtime(self) -> list[str]:
        return under_cgroup2_alone("crun", "--root", str(self.pod.mesh.place.directory / "crun"))


class Podman(Container):
    """Of podman, which keeps a process of its own (conmon, in the node's namespace) below the same cgroup."""

    RUNTIME = "runc"
    OPTIONS: tuple[str, ...] = ()

    @property
    def podman(self) -> list[str]:
        """The program, with places of its own."""
        place = self.pod.mesh.place.directory / "podman"
        return [
            "podman", "--root", str(place / "store"), "--runroot", str(place / "run"), "--tmpdir", str(place / "tmp"),
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
            "--runtime", self.RUNTIME, "--runtime-flag", f"root={self.pod.mesh.place.directory / self.RUNTIME}",
        ]  # fmt: skip

    def command(self) -> list[str]:
        limits = [*self.OPTIONS, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        where = ["--network", f"ns:{self.pod.site.netns_path}", "--cgroup-parent", self.parent, "--no-hosts"]
        limits += [part for key, value in self.labels.items() for part in ("--label", f"{key}={value}")]
        what = ["--rootfs", str(self.directory / "rootfs"), *self.SERVER]
        hooks = self.pod.mesh.place.directory / f"hooks-{self.id}"
        hooks.mkdir(exist_ok=True)
        if self.hook:
            when = {"version": "1.0.0", "hook": self.hook, "when": {"always": True}, "stages": ["createRuntime"]}
            (hooks / "nodemesh.json").write_text(json.dumps(when))
        limits += ["--hooks-dir", str(hooks)]
        return [*self.podman, "run", "--rm", "--name", self.id, *limits, *where, *what]

    def execute(self, *argv: str) -> list[str]:
        return [*self.podman, "exec", self.id, *argv]

    def remove(self) -> None:
        subprocess.run([*self.podman, "rm", "--force", "--time", "0", self.id], check=False, capture_output=True)


class PodmanCrun(Podman):
    """Of podman with crun, as it comes where nobody chose a runtime."""

    RUNTIME = "crun"
    # no filter of devices, as of Crun; no limit of processes, whose controller a hybrid host has in cgroup v1
    OPTIONS = ("--privileged", "--pids-limit", "0")

    @property
    def podman(self) -> list[str]:
        return under_cgroup2_alone(*super().podman)


class Docker(Container):
    """Of an engine of docker's own, in a network namespace that docker makes: nothing but loopback is in it."""

    @property
    def _docker(self) -> list[str]:
        return ["docker", "-H", f"unix://{self.pod.mesh.place.directory}/docker/socket"]

    def command(self) -> list[str]:
        archive = subprocess.run(["tar", "-C", self.directory / "rootfs", "-c", "."], check=True, capture_output=True)
        subprocess.run([*self._docker, "import", "-", self.id], input=archive.stdout, check=True, capture_output=True)
        labels = [part for key, value in self.labels.items() for part in ("--label", f"{key}={value}")]
        where = ["--network", "none", "--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--cgroup-parent", self.parent]
        return [*self._docker, "run", "--name", self.id, *labels, *where, self.id, *self.SERVER]

    @property
    def engine_id(self) -> str:
        """Of 64 digits."""
        return run(*self._docker, "inspect", "--format", "{{.Id}}", self.id).strip()

    @property
    def inode(self) -> int:
        """Of its network namespace."""
        pid = run(*self._docker, "inspect", "--format", "{{.State.Pid}}", self.id).strip()
        return Path(f"/proc/{pid}/ns/net").stat().st_ino

    def execute(self, *argv: str) -> list[str]:
        return [*self._docker, "exec", self.id, *argv]

    def remove(self) -> None:
        for what in (["rm", "--force", self.id], ["rmi", self.id]):
            subprocess.run([*self._docker, *what], check=False, capture_output=True)


@contextlib.contextmanager
def docker_engine(mesh: Mesh, node: Node) -> Iterator[None]:
    """dockerd with everything of its own, for the time of a block."""
    place = mesh.place.directory / "docker"
    place.mkdir()
    log = mesh.place.logs / "dockerd.log"
    where = ["--data-root", place / "data", "--exec-root", place / "exec", "--pidfile", place / "pid"]
    network = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    engine = node.outside.spawn(
        "dockerd", *where, "-H", f"unix://{place}/socket", *network, "--storage-driver", "vfs", log=log
    )
    try:

        def answers() -> bool:
            assert engine.poll() is None, log.read_text()[-1000:]
            asked = subprocess.run(["docker", "-H", f"unix://{place}/socket", "ps"], check=False, capture_output=True)
            return asked.returncode == 0

        eventually(answers, within=40, what="dockerd answers")
        yield
    finally:
        engine.terminate()
        engine.wait(STOP_SECONDS)
        for mount in ("data", "exec"):
            for line in Path("/proc/self/mounts").read_text().splitlines():
                if line.split()[1].startswith(f"{place}/{mount}"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=False, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
