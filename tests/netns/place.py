"""What a lab takes from the machine: network namespaces, a cgroup subtree, a bpffs mount, a directory; named after it.

Everything follows from the name, so that what a lab left (killed, crashed) can be removed by name alone, by anybody.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.pace import patient

PREFIX = "nmlab-"
KEEP = "keep"
"""Owner of a lab that outlives the program that made it (`make up`)."""
KILL_SECONDS = patient(10.0)
LINK = "mesh0"
"""The interface between the nodes, by the same name in each."""


class PlaceError(Exception):
    """The machine did not give what a lab needs; the text says what and why."""


@dataclass(frozen=True)
class Site:
    """One node's part of a place: a namespace, its addresses, a cgroup."""

    node: str
    netns: str
    v4: str
    v6: str
    cgroup: Path

    @property
    def netns_path(self) -> str:
        return f"/run/netns/{self.netns}"

    def enter(self, *argv: str | Path) -> list[str]:
        """The command inside the namespace. Not `ip netns exec`: that remounts /sys and hides the cgroups."""
        return ["nsenter", f"--net={self.netns_path}", *map(str, argv)]


@dataclass
class Place:
    """Two nodes on one link. `create` takes, `remove` gives back; both may be called at any time."""

    name: str = field(default_factory=lambda: secrets.token_hex(3))
    nodes: tuple[str, ...] = ("node-a", "node-b")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,8}", self.name):
            raise PlaceError(f"{self.name!r} is not a name for a lab: 1 to 8 of a-z and 0-9")

    @property
    def directory(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{PREFIX}{self.name}"

    @property
    def cgroup(self) -> Path:
        return cgroup2_mount() / f"{PREFIX}{self.name}"

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpf"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def sites(self) -> list[Site]:
        return [
            Site(
                node=node,
                netns=f"{PREFIX}{self.name}-{node.removeprefix('node-')}",
                v4=f"10.77.0.{number}",
                v6=f"fd77::{number}",
                cgroup=self.cgroup / node,
            )
            for number, node in enumerate(self.nodes, start=1)
        ]

    def create(self, *, keep: bool = False) -> None:
        """Take everything; on a failure, what was taken is given back."""
        sweep()
        try:
            self.directory.mkdir(mode=0o755)
            owner = KEEP if keep else f"{os.getpid()} {_started(os.getpid())}"
            (self.directory / "owner").write_text(owner)
            self.logs.mkdir()
            self.bpffs.mkdir()
            _run("mount", "-t", "bpf", "bpf", self.bpffs)
            self.cgroup.mkdir()
            for site in self.sites:
                site.cgroup.mkdir()
                _make_namespace(site)
            self._join()
        except BaseException:
            self.remove()
            raise

    def _join(self) -> None:
        """A veth pair, an end in each node."""
        if len(self.sites) != 2:
            raise PlaceError("a place has two nodes")
        a, b = self.sites
        _run(*a.enter("ip", "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", b.netns))
        for site in (a, b):
            _run(*site.enter("ip", "link", "set", LINK, "up"))
            _run(*site.enter("ip", "address", "add", f"{site.v4}/24", "dev", LINK))
            _run(*site.enter("ip", "address", "add", f"{site.v6}/64", "dev", LINK, "nodad"))

    def remove(self) -> None:
        """Give everything back, in any state; what could not be removed is shown by `leftovers`."""
        kill_all(self.cgroup)
        _remove_cgroups(self.cgroup)
        for cgroup in self._former_cgroups():
            _remove_cgroups(cgroup)
        for mount in reversed(self._mounts()):  # bpffs, and what container runtimes left
            subprocess.run(["umount", mount], check=False, capture_output=True)
        for netns in _namespaces(self.name):
            subprocess.run(["ip", "netns", "delete", netns], check=False, capture_output=True)
        if not self._mounts():
            shutil.rmtree(self.directory, ignore_errors=True)

    def _mounts(self) -> list[str]:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [mount for mount in mounts if mount.startswith(f"{self.directory}/")]

    def _former_cgroups(self) -> list[Path]:
        """Where container runtimes put theirs on a hybrid host, below the same names: the version 1 hierarchies."""
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        roots = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup"]
        return sorted({found for root in roots for found in root.rglob(self.cgroup.name)})

    def leftovers(self) -> list[str]:
        """What of this place is still on the machine; empty after `remove`."""
        left = [f"network namespace {netns}" for netns in _namespaces(self.name)]
        left += [f"process {pid} in {self.cgroup}" for pid in processes(self.cgroup)]
        left += [f"cgroup {cgroup}" for cgroup in (self.cgroup, *self._former_cgroups()) if cgroup.exists()]
        left += [f"mount {mount}" for mount in self._mounts()]
        if self.directory.exists():
            left.append(f"directory {self.directory}")
        return left


def existing() -> list[str]:
    """Names of the labs that have anything on the machine."""
    found = {path.name for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")}
    found |= {path.name for path in cgroup2_mount().glob(f"{PREFIX}*")}
    if Path("/run/netns").is_dir():
        found |= {path.name.rpartition("-")[0] for path in Path("/run/netns").glob(f"{PREFIX}*-*")}
    return sorted(name.removeprefix(PREFIX) for name in found)


def sweep() -> None:
    """Remove labs whose program was killed before it could: nobody else will."""
    for name in existing():
        owner_file = Path(tempfile.gettempdir()) / f"{PREFIX}{name}" / "owner"
        try:
            owner = owner_file.read_text()
        except OSError:
            continue  # being made or being removed this moment, or not ours
        pid, _, started = owner.partition(" ")
        if owner != KEEP and owner and _started(int(pid)) != started:
            Place(name).remove()


def cgroup2_mount() -> Path:
    """Where cgroup v2 is mounted, hybrid or pure."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise PlaceError("no cgroup2 file system is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")


def processes(cgroup: Path) -> list[int]:
    """Every process in the cgroup and below it."""
    pids: list[int] = []
    for procs in [cgroup / "cgroup.procs", *cgroup.rglob("cgroup.procs")]:
        try:
            pids += [int(pid) for pid in procs.read_text().split()]
        except OSError:
            continue
    return sorted(set(pids))


def kill_all(cgroup: Path) -> None:
    """Kill what runs in the cgroup and below, and wait until it is gone."""
    if not cgroup.exists():
        return
    try:
        (cgroup / "cgroup.kill").write_text("1")
    except OSError:  # kernels before 5.14
        for pid in processes(cgroup):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while processes(cgroup) and time.monotonic() < deadline:
        time.sleep(0.01)


def _remove_cgroups(cgroup: Path) -> None:
    if not cgroup.exists():
        return
    below = [path for path in cgroup.rglob("*") if path.is_dir()]
    deadline = time.monotonic() + KILL_SECONDS
    for path in [*sorted(below, key=lambda p: len(p.parts), reverse=True), cgroup]:
        while True:
            try:
                path.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:  # EBUSY while the kernel still buries a process
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)


def _make_namespace(site: Site) -> None:
    _run("ip", "netns", "add", site.netns)
    for setting in ("net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.accept_dad=0"):
        name, _, value = setting.partition("=")
        path = "/proc/sys/" + name.replace(".", "/")
        _run(*site.enter("sh", "-c", f"[ ! -e {path} ] || echo {value} > {path}"))
    _run(*site.enter("ip", "link", "set", "lo", "up"))


def _namespaces(name: str) -> list[str]:
    directory = Path("/run/netns")
    return sorted(path.name for path in directory.glob(f"{PREFIX}{name}-*")) if directory.is_dir() else []


def _started(pid: int) -> str:
    """When the process started, in the kernel's clock ticks: tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _run(*argv: str | Path) -> None:
    done = subprocess.run([*map(str, argv)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise PlaceError(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.stdout.strip()}")
