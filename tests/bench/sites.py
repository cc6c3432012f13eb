"""What a system is deployed on: network namespaces, a veth, cgroups, a directory. All are gone when the block ends.

Names hold the benchmark's process id, so that what a killed run left behind is recognised and removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import RunError, Topology
from tests.netns import place

PREFIX = "nmb"
CLIENT_ADDRESS = "10.213.0.1"
SERVER_ADDRESS = "10.213.0.2"
LOOPBACK = "127.0.0.1"

SYSCTLS = {
    "net.ipv4.ip_local_port_range": "20000 64999",
    "net.ipv4.tcp_tw_reuse": "1",
}
"""For thousands of short connections a run. Every port that the benchmark listens on is below the range."""

EMPTY_WAIT_S = 3.0
POLL_S = 0.02

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Site:
    """Two nodes (one, with the same name twice, on the same-node topology)."""

    topology: Topology
    client: str
    """Network namespace of the node where client programs run."""
    server: str
    server_address: str
    """Of the server's node, as the client's node reaches it."""


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"{' '.join(argv)}: {done.stderr.strip() or f'status {done.returncode}'}")


@contextlib.contextmanager
def site(topology: Topology) -> Iterator[Site]:
    """Fresh namespaces for one deployment."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_namespace())
        if topology is Topology.SAME_NODE:
            yield Site(topology, client, client, LOOPBACK)
            return
        server = stack.enter_context(_namespace())
        _run("ip", "-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server)
        for name, address in ((client, CLIENT_ADDRESS), (server, SERVER_ADDRESS)):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
        yield Site(topology, client, server, SERVER_ADDRESS)


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        tune(name)
        yield name
    finally:
        if Path("/run/netns", name).exists():
            _run("ip", "netns", "delete", name)


def tune(netns: str) -> None:
    """The settings that every system's namespaces share."""
    for key, value in SYSCTLS.items():
        path = f"/proc/sys/{key.replace('.', '/')}"
        _run("nsenter", f"--net=/run/netns/{netns}", "--", "sh", "-c", 'echo "$1" > "$0"', path, value)


def cgroup2_root() -> Path:
    """Where cgroup v2 is mounted (/sys/fs/cgroup, or beside v1 elsewhere)."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mountpoint, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(mountpoint)
    raise RunError("no cgroup2 mount in /proc/self/mounts; mount one: mount -t cgroup2 none /sys/fs/cgroup")


@contextlib.contextmanager
def cgroup() -> Iterator[Path]:
    """A fresh cgroup; what still runs in it at the end is killed."""
    path = cgroup2_root() / f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    path.mkdir()
    try:
        yield path
    finally:
        _remove_cgroup(path)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A fresh directory for configurations, keys and logs."""
    path = Path(tempfile.gettempdir(), f"{PREFIX}-{os.getpid()}-{next(_numbers)}")
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_cgroup(path: Path) -> None:
    deadline = time.monotonic() + EMPTY_WAIT_S
    while members := (path / "cgroup.procs").read_text().split():
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(member), signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RunError(f"{path} still holds processes {members}")
        time.sleep(POLL_S)
    path.rmdir()


def sweep(owner: int | None = None) -> list[str]:
    """Remove what benchmarks that no longer live have left, or what the one of process `owner` has; returns the names.

    Labs of meshes (`tests.netns.place`) included: of any program that is gone.
    """
    removed = _sweep_labs(owner)
    namespaces = Path("/run/netns")
    for path in sorted(namespaces.glob(f"{PREFIX}-*")) if namespaces.is_dir() else []:
        if _orphaned(path.name, owner):
            _run("ip", "netns", "delete", path.name)
            removed.append(path.name)
    for path in sorted(cgroup2_root().glob(f"{PREFIX}-*")):
        if path.is_dir() and _orphaned(path.name, owner):
            _remove_cgroup(path)
            removed.append(path.name)
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}-*")):
        if path.is_dir() and _orphaned(path.name, owner):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(str(path))
    return removed


def _sweep_labs(owner: int | None) -> list[str]:
    before = place.existing()
    if owner is not None:
        for name in before:
            lab = place.Place(name)
            with contextlib.suppress(OSError):
                if (lab.directory / "owner").read_text().split()[:1] == [str(owner)]:
                    lab.remove()
    else:
        place.sweep()
    return [f"{place.PREFIX}{name}" for name in sorted(set(before) - set(place.existing()))]


def _orphaned(name: str, owner: int | None) -> bool:
    match = re.fullmatch(rf"{PREFIX}-(\d+)-\d+", name)
    if match is None:
        return False
    return int(match[1]) == owner if owner is not None else not Path("/proc", match[1]).exists()
