"""containerd with everything of its own, containers of ``ctr``, and pods of its CRI, as a kubelet starts them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.netns import cri
from tests.netns.containers import STOP_SECONDS, Container, make_root
from tests.netns.images import write_image
from tests.netns.lab import Mesh, Node, eventually
from tests.netns.place import cgroup2_mount
from tests.netns.pods import Pod, run
from tests.netns.spot import Spot

IMAGE, PAUSE = "nodemesh.test/box:1", "nodemesh.test/pause:1"
CRI = "k8s.io"
"""The namespace of containerd in which its CRI keeps pods."""
CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
address = "{place}/socket"
[ttrpc]
address = "{place}/socket.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{place}/none"
conf_dir = "{place}/none"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{place}/base.json"
options = {{ Root = "{place}/runc" }}
"""


class Engine:
    """A containerd that runs."""

    def __init__(self, mesh: Mesh, node: Node) -> None:
        self.mesh, self.node = mesh, node
        self.place = mesh.place.directory / "containerd"
        self.socket = self.place / "socket"

    def ctr(self, *argv: str, namespace: str = "default") -> list[str]:
        """A command to it."""
        return ["ctr", "--address", str(self.socket), "--namespace", namespace, *argv]

    def load(self, name: str, root: Path, *command: str) -> None:
        """Give it an image, for ``ctr`` and for the CRI."""
        archive = self.place / "image.tar"
        write_image(archive, name, root, *command)
        for namespace in ("default", CRI):
            run(*self.ctr("images", "import", "--snapshotter", "native", str(archive), namespace=namespace))

    def hook(self, hook: dict[str, Any] | None) -> None:
        """What the CRI gives every container, as in deploy/oci/README.md; it reads this when it starts."""
        base = json.loads(run("ctr", "oci", "spec"))
        # a limit that the example raises, which a machine in a container may not do
        base["process"].pop("rlimits", None)
        base["linux"].pop("cgroupsPath", None)
        if hook is not None:
            base["hooks"] = {"createRuntime": [hook]}
        (self.place / "base.json").write_text(json.dumps(base))


@contextlib.contextmanager
def containerd(mesh: Mesh, node: Node, hook: dict[str, Any] | None = None) -> Iterator[Engine]:
    """One for the time of a block, with an image of busybox's web server. ``hook``: of every container of the CRI."""
    engine = Engine(mesh, node)
    place, log = engine.place, mesh.place.logs / "containerd.log"
    place.mkdir()
    engine.hook(hook)
    (place / "config.toml").write_text(CONFIG.format(place=place, pause=PAUSE))
    process = node.outside.spawn("containerd", "--config", place / "config.toml", log=log)
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-1000:]
            return bool(cri.call(engine.socket, "Version", {}))

        eventually(answers, within=40, what="containerd answers")
        root = make_root(place, "this is box\n")
        engine.load(IMAGE, root, *Container.SERVER)
        engine.load(PAUSE, root, "sleep", "100000")
        yield engine
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{place}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False, capture_output=True)
        for shim in _shims(place):
            shim.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)


def _shims(place: Path) -> list[Path]:
    """Sockets of shims that are left: they are in /run/containerd, whatever containerd is told."""
    told = place.glob("state/io.containerd.runtime.v2.task/*/*/address")
    return [Path(path.read_text().removeprefix("unix://")) for path in told]


class Ctr(Container):
    """Of ``ctr``: with labels, which only containerd knows, and annotations, which the runtime is told."""

    def __init__(self, engine: Engine, pod: Pod, *, annotations: dict[str, str] | None = None, **labels: str) -> None:
        super().__init__(pod, **labels)
        self.engine = engine
        self.annotations = annotations or {}
        self.network: tuple[str, ...] = ("--with-ns", f"network:{pod.site.netns_path}")

    def command(self) -> list[str]:
        said = [part for key, value in self.labels.items() for part in ("--label", f"{key}={value}")]
        said += [part for key, value in self.annotations.items() for part in ("--annotation", f"{key}={value}")]
        where = [*self.network, "--cgroup", f"{self.parent}/{self.id}", "--fifo-dir", str(self.engine.place / "fifo")]
        how = ["--snapshotter", "native", "--runc-root", str(self.engine.place / "runc")]
        return self.engine.ctr("run", "--rm", *how, *where, *said, IMAGE, self.id, *self.SERVER)

    def execute(self, *argv: str) -> list[str]:
        where = ("--fifo-dir", str(self.engine.place / "fifo"))
        return self.engine.ctr("tasks", "exec", *where, "--exec-id", "more", self.id, *argv)

    def remove(self) -> None:
        for what in (
            ("tasks", "kill", "--signal", "SIGKILL"),
            ("tasks", "delete", "--force"),
            ("containers", "delete"),
        ):
            subprocess.run(self.engine.ctr(*what, self.id), check=False, capture_output=True)


class Sandbox:
    """A pod of the CRI in the host's network, with one container. A context manager."""

    def __init__(self, engine: Engine, uid: str, **labels: str) -> None:
        self.engine, self.uid, self.labels = engine, uid, labels
        self.spot: Spot = engine.node.spot(f"kubepods/besteffort/pod{uid}")
        self.id = ""
        self.container = ""

    def call(self, method: str, message: cri.Message) -> dict[int, Any]:
        """Of the runtime service."""
        return cri.call(self.engine.socket, method, message)

    @property
    def _config(self) -> cri.Message:
        network = {1: cri.NODE}
        parent = f"/{self.spot.cgroup.relative_to(cgroup2_mount())}"
        return {
            1: {1: "guest", 2: self.uid, 3: "shop"},
            3: {},
            6: cri.Map({"io.kubernetes.pod.name": "guest", "io.kubernetes.pod.uid": self.uid}),
            8: {1: parent, 2: {1: network}},
        }

    def __enter__(self) -> Sandbox:
        self.id = self.call("RunPodSandbox", {1: self._config})[1].decode()
        return self

    def create(self, *command: str) -> None:
        """A container in it, named ``web``, which is not started yet."""
        labels = cri.Map({"io.kubernetes.container.name": "web", "io.kubernetes.pod.uid": self.uid, **self.labels})
        network = {2: {3: {1: cri.NODE}}}
        container = {1: {1: "web"}, 2: {1: IMAGE}, 3: list(command), 9: labels, 15: network}
        made = self.call("CreateContainer", {1: self.id, 2: container, 3: self._config})
        self.container = made[1].decode()

    def start(self) -> None:
        """Start the container: its runtime makes it, hooks run, its program begins. CriError if that is given up."""
        self.call("StartContainer", {1: self.container})

    def __exit__(self, *_: object) -> None:
        # as a kubelet, again until it is done: containerd cannot kill a container that ends at that moment
        eventually(lambda: self._ended("StopPodSandbox") and self._ended("RemovePodSandbox"), what="the pod is gone")
        self.spot.close()

    def _ended(self, method: str) -> bool:
        try:
            self.call(method, {1: self.id})
        except cri.CriError as error:
            raise AssertionError(str(error)) from error
        return True
