"""Network namespaces of workloads on a node of a lab, each with a cable to the node, as container runtimes do it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from tests.netns.lab import Mesh, Node
from tests.netns.place import KILL_SECONDS, kill_all, processes
from tests.netns.spot import Spot

INTERFACE = "eth0"


def run(*argv: str | Path) -> str:
    """A command that has to succeed; its output."""
    done = subprocess.run([*map(str, argv)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


class Pod:
    """A namespace of its own for the cgroup ``shop/<name>``. A context manager; removed with the lab at the latest.

    ``number`` (1 to 60 on each node) makes its addresses: 10.88.<node>.<4 n + 2> and fd88:<node>:<n>::2, the other end
    of the cable one less. Nothing outside of the node has a route to them.
    """

    def __init__(self, mesh: Mesh, node: Node, name: str, number: int) -> None:
        letter = node.name.removeprefix("node-")
        index = mesh.nodes.index(node) + 1
        self.mesh, self.node, self.name = mesh, node, name
        self.v4, self._gate4 = f"10.88.{index}.{4 * number + 2}", f"10.88.{index}.{4 * number + 1}"
        self.v6, self._gate6 = f"fd88:{index}:{number}::2", f"fd88:{index}:{number}::1"
        self._cable = f"pod{number}"
        netns = f"{node.site.netns.removesuffix('-' + letter)}-{letter}{number}"
        self.site = replace(node.site, netns=netns, v4=self.v4, v6=self.v6)
        log = mesh.place.logs / f"{node.name}.pod.{name}.log"
        self.spot = mesh.keep(Spot(self.site, f"shop/{name}", log=log, env=mesh.env))
        self.outside = mesh.keep(Spot(self.site, f"outside/{name}", log=log, env=mesh.env))
        """In the namespace, but of no workload."""
        self.create()

    def create(self) -> None:
        """The namespace, the cable, the addresses and the default route; and the workload's cgroup, empty."""
        self.spot.cgroup.mkdir(parents=True, exist_ok=True)
        run("ip", "netns", "add", self.site.netns)
        node = self.node.site
        # A former pod's cable goes when the kernel has taken its namespace down, which may be still to come.
        subprocess.run(node.enter("ip", "link", "delete", self._cable), check=False, capture_output=True)
        peer = ["peer", "name", INTERFACE, "netns", self.site.netns]
        run(*node.enter("ip", "link", "add", self._cable, "type", "veth", *peer))
        inside = "\n".join([
            "link set lo up", f"link set {INTERFACE} up",
            f"address add {self.v4}/30 dev {INTERFACE}", f"address add {self.v6}/64 dev {INTERFACE} nodad",
            f"route add default via {self._gate4}", f"route add default via {self._gate6}",
        ])  # fmt: skip
        outside = "\n".join([
            f"link set {self._cable} up",
            f"address add {self._gate4}/30 dev {self._cable}", f"address add {self._gate6}/64 dev {self._cable} nodad",
        ])  # fmt: skip
        for site, lines in ((node, outside), (self.site, inside)):
            subprocess.run(site.enter("ip", "-batch", "-"), input=lines, text=True, check=True, capture_output=True)

    @property
    def gate(self) -> tuple[str, str]:
        """The node's end of the cable."""
        return self._gate4, self._gate6

    @property
    def inode(self) -> int:
        """As ``lsns`` shows the namespace."""
        return Path(self.site.netns_path).stat().st_ino

    def remove(self) -> None:
        """Kill what runs in it, and take it away: what a runtime does when a container is deleted."""
        for spot in (self.spot, self.outside):
            kill_all(spot.cgroup)
            spot.close()
            # those below are of runtimes that were killed, or of podman's cleaning up, which leaves its own
            for cgroup in sorted([spot.cgroup, *(p for p in spot.cgroup.rglob("*") if p.is_dir())], reverse=True):
                remove_cgroup(cgroup)
        subprocess.run(["ip", "netns", "delete", self.site.netns], check=False, capture_output=True)

    def __enter__(self) -> Pod:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def remove_cgroup(cgroup: Path) -> None:
    """Once the kernel has buried its processes."""
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        try:
            cgroup.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            assert time.monotonic() < deadline, f"{cgroup} still has {processes(cgroup)}"
            time.sleep(0.01)
