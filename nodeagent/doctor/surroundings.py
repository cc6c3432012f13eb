"""What else on this host takes traffic of workloads past the agent, or keeps the agent's own from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nodeagent.config import DNS_PORTS, Config
from nodeagent.doctor.finding import Finding, Level
from nodeagent.namespaces.reserved import SYSCTL, listed, parsed

RANGE: Final = SYSCTL.with_name("ip_local_port_range")
NSCD_SOCKET: Final = Path("/run/nscd/socket")
NSCD_CONF: Final = Path("/etc/nscd.conf")
NSSWITCH: Final = Path("/etc/nsswitch.conf")
RESOLVED: Final = Path("/run/systemd/resolve/io.systemd.Resolve")
VSOCK: Final = Path("/dev/vsock")
_SHARED_CACHE: Final = re.compile(r"^\s*enable-cache\s+hosts\s+no\b", re.MULTILINE)
_CGROUP_MOUNT: Final = re.compile(r" - cgroup2? ")
MAX_MEMBERS: Final = 64
"""Processes of one workload that are looked at."""

Members = Callable[[int], Sequence[int]]
"""Cgroup id -> processes in it and below."""
Filters = Callable[[int], Sequence[str]]
"""Cgroup id -> names of the programs that see the packets of its sockets."""


def reserved(config: Config, range_text: str, reserved_text: str) -> Finding:
    """Whether the kernel gives a port of the agent to a program that binds to none. The texts are those of the two
    sysctls."""
    ports = config.ports
    own = {ports.outbound, ports.inbound, ports.tunnel, ports.admin, ports.metrics, ports.ready}
    own |= set(range(ports.dns, ports.dns + DNS_PORTS)) if config.dns else set()
    first, last = map(int, range_text.split())
    open_ = {port for port in own - parsed(reserved_text) if first <= port <= last}
    if not open_:
        return Finding("reserved ports", Level.GOOD, "no program is given a port of the agent without asking for it")
    return Finding(
        "reserved ports", Level.BAD,
        f"{listed(open_)} are in ip_local_port_range ({first}-{last}) and not reserved: listen() or connect() without"
        " bind() may be given one, and is in the agent's way then",
        f"the agent reserves them where it may write; else sysctl net.ipv4.ip_local_reserved_ports={listed(own)}",
    )  # fmt: skip


def names(nscd_runs: bool, nscd_conf: str, nsswitch: str, resolved_runs: bool) -> list[Finding]:
    """Daemons that ask for names in the place of programs: the question is the daemon's then, and no workload's."""
    found = []
    if nscd_runs and not _SHARED_CACHE.search(nscd_conf):
        found.append(Finding(
            "names", Level.BAD,
            "nscd asks for names in the place of programs: they do not find names of the mesh, and their questions"
            " leave the node also under REGISTRY_ONLY",
            f"'enable-cache hosts no' in {NSCD_CONF} and restart nscd, or 'systemctl disable --now nscd'",
        ))  # fmt: skip
    hosts = next((line.partition(":")[2].split() for line in nsswitch.splitlines() if line.startswith("hosts:")), [])
    if resolved_runs and "resolve" in hosts and ("dns" not in hosts or hosts.index("resolve") < hosts.index("dns")):
        found.append(Finding(
            "names", Level.BAD,
            "nss-resolve has systemd-resolved ask for names in the place of programs: they do not find names of the"
            " mesh, and their questions leave the node also under REGISTRY_ONLY",
            f"have 'dns' instead of 'resolve' in the line 'hosts:' of {NSSWITCH}: programs then ask the resolvers of"
            " /etc/resolv.conf themselves (127.0.0.53 will do)",
        ))  # fmt: skip
    return found or [Finding("names", Level.GOOD, "programs ask their resolvers themselves")]


def vsock(device: bool, confined: bool) -> list[Finding]:
    """Sockets to the hypervisor and other guests, which no hook of addresses sees."""
    if not device:
        return []
    level = Level.BAD if confined else Level.ODD
    return [Finding(
        "vsock", level, "this is a virtual machine with AF_VSOCK: sockets to its host pass by every policy of the mesh"
        + (", REGISTRY_ONLY included" if confined else ""),
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK in the units of workloads, or blacklist the module"
        " vsock",
    )]  # fmt: skip


def movers(workload: Mapping[str, Any], members: Members, proc: Path = Path("/proc")) -> list[Finding]:
    """Workloads that may leave their cgroup, and so their identity: root with a writable cgroup tree."""
    pids = [pid for cgroup in workload["cgroups"] for pid in members(cgroup)][:MAX_MEMBERS]
    free = next((pid for pid in pids if _may_move(proc / str(pid))), None)
    if free is None:
        return []
    name = f"cgroup of {workload['namespace']}/{workload['name']}"
    return [Finding(
        name, Level.ODD, f"process {free} is root and may write to the cgroup tree: it can move to another workload's"
        " cgroup, and have that one's identity",
        "ProtectControlGroups=yes in its unit, or User=",
    )]  # fmt: skip


def _may_move(process: Path) -> bool:
    try:
        status, mounts = (process / "status").read_text(), (process / "mountinfo").read_text()
    except OSError:
        return False
    uids = next((line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")), ["1", "1"])
    if uids[1] != "0":
        return False
    return any(_CGROUP_MOUNT.search(line) and "rw" in line.split()[5].split(",") for line in mounts.splitlines())


def filters(workload: Mapping[str, Any], of: Filters) -> list[Finding]:
    """Programs on the packets of its sockets, such as those of IPAddressDeny=: they see loopback where the mesh is."""
    found = sorted({program for cgroup in workload["cgroups"] for program in of(cgroup)})
    if not found:
        return []
    name = f"filters of {workload['namespace']}/{workload['name']}"
    return [Finding(
        name, Level.ODD, f"its packets pass programs of its cgroup ({', '.join(found)}): if those drop what is for"
        " loopback, its connections to the mesh and its questions time out",
        "IPAddressAllow=localhost beside IPAddressDeny= in its unit; 'bpftool cgroup show' lists the programs",
    )]  # fmt: skip


def look(config: Config, confined: bool) -> list[Finding]:
    """Everything about the host itself. ``confined``: whether a workload's egress policy is REGISTRY_ONLY."""
    found = []
    if RANGE.exists() and SYSCTL.exists():
        found.append(reserved(config, RANGE.read_text(), SYSCTL.read_text()))
    found += names(NSCD_SOCKET.exists(), _text(NSCD_CONF), _text(NSSWITCH), RESOLVED.exists())
    return [*found, *vsock(VSOCK.exists(), confined)]


def each(workloads: Iterable[Mapping[str, Any]], members: Members, of: Filters) -> list[Finding]:
    """Everything about the workloads of this node."""
    return [finding for workload in workloads for finding in (*movers(workload, members), *filters(workload, of))]


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
