"""The kernel and the file systems that the agent needs. Reads; the kernel's abilities are found by trying them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from nodeagent.capture.cgroups import CgroupError, cgroup2_mount
from nodeagent.config import Config
from nodeagent.doctor.finding import Finding, Level
from nodeagent.loader.cohabitants import cohabitants
from nodeagent.loader.errors import LoaderError
from nodeagent.loader.features import Support, probe
from nodeagent.loader.objects import pinned_programs
from nodeagent.loader.pins import instance_path

BTF = Path("/sys/kernel/btf/vmlinux")
NEEDED = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 39: "CAP_BPF"}
"""Capability number (linux/capability.h) -> name. CAP_SYS_ADMIN stands for CAP_BPF."""
SEEING = 19
"""CAP_SYS_PTRACE: without it nobody sees in which network namespace a process of another user is."""


def look(config: Config, own_programs: Collection[int]) -> list[Finding]:
    """Everything about the host. ``own_programs``: ids of the running agent's programs; empty if none answers."""
    mounts = Path("/proc/self/mounts").read_text()
    findings = [privileges(Path("/proc/self/status").read_text(), os.geteuid())]
    if not config.capture:
        return [*findings, Finding("capture", Level.ODD, "capture: false; only tunnels of other nodes are served")]
    try:
        root = config.cgroup_root or cgroup2_mount(mounts)
    except CgroupError as error:
        return [*findings, Finding("cgroups", Level.BAD, str(error), "boot with systemd.unified_cgroup_hierarchy=1")]
    findings += [cgroups(mounts, root), bpffs(mounts, config.bpffs), *features(root)]
    left = [] if own_programs else left_behind(config)
    return [*findings, *capture_alone(left), *neighbours(root, [*own_programs, *left])]


def privileges(status: str, uid: int) -> Finding:
    """Whether this user may do what the agent does, from the text of ``/proc/self/status``."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    effective = int(fields.get("CapEff", "0").strip() or "0", 16)
    missing = [name for number, name in NEEDED.items() if not effective >> number & 1]
    if effective >> 21 & 1 and effective >> 12 & 1:
        missing = []
    if missing:
        return Finding("privileges", Level.BAD, f"uid {uid} lacks {', '.join(missing)}",
                       "run as root, or give the unit AmbientCapabilities= with them")  # fmt: skip
    if not effective >> SEEING & 1:
        return Finding("privileges", Level.BAD,
                       f"uid {uid} lacks CAP_SYS_PTRACE: workloads in network namespaces of their own are not found",
                       "run as root, or add it to CapabilityBoundingSet= of the unit")  # fmt: skip
    return Finding("privileges", Level.GOOD, f"uid {uid} has what it needs")


def cgroups(mounts: str, root: Path) -> Finding:
    """Where cgroup v2 is, and whether the agent's root lies in it."""
    if not (root / "cgroup.procs").exists():
        return Finding("cgroups", Level.BAD, f"{root} is no directory of cgroup v2",
                       "set cgroup_root to a directory below the cgroup v2 mount, or leave it out")  # fmt: skip
    old = [line for line in mounts.splitlines() if line.split(" ")[2:3] == ["cgroup"]]
    kind = "hybrid: version 1 is mounted beside it, workloads are told apart by version 2" if old else "unified"
    return Finding("cgroups", Level.GOOD, f"cgroup v2 at {root} ({kind})")


def bpffs(mounts: str, path: Path) -> Finding:
    """Whether programs can be pinned."""
    mounted = any(fields[1:3] == [str(path), "bpf"] for fields in (line.split(" ") for line in mounts.splitlines()))
    if mounted:
        return Finding("bpffs", Level.GOOD, f"mounted at {path}")
    return Finding("bpffs", Level.ODD, f"nothing of type bpf is mounted at {path}; the agent mounts it at its start",
                   f"to have it before: mount -t bpf bpf {path}")  # fmt: skip


def features(root: Path) -> list[Finding]:
    """The kernel's abilities, each by trying; one line if all are there."""
    release = os.uname().release
    try:
        found = probe(root)
    except (LoaderError, OSError) as error:
        return [Finding("kernel", Level.BAD, f"{release}: cannot be probed: {error}", "run as root; is libbpf1 there?")]
    findings = [
        Finding("kernel", Level.BAD, f"{release} lacks {f.name}", f"a kernel with {f.option}")
        if f.support is Support.NO
        else Finding("kernel", Level.BAD, f"{f.name}: {f.detail}", "run as root, outside of a user namespace")
        for f in found.missing()
    ]
    if not findings:
        findings = [Finding("kernel", Level.GOOD, f"{release} can all {len(found.features)} things that capture needs")]
    if not BTF.exists():
        findings.append(Finding("kernel", Level.ODD, f"{BTF} is not there: same-node flows cannot be spliced",
                                "a kernel with CONFIG_DEBUG_INFO_BTF"))  # fmt: skip
    return findings


def left_behind(config: Config) -> list[int]:
    """Ids of the programs that an agent of this instance left in force."""
    try:
        return list(pinned_programs(instance_path(config.bpffs, config.instance)).values())
    except (LoaderError, OSError):
        return []


def capture_alone(programs: Collection[int]) -> list[Finding]:
    """What it means that they are in force while no agent answers."""
    if not programs:
        return []
    return [Finding("capture", Level.BAD, f"{len(programs)} programs are in force and no agent answers: what workloads"
                    " connect to in the mesh is refused, and so is plaintext to them unless their port is DISABLE",
                    "start the agent; or, to go on without a mesh, 'nodeagent unload'")]  # fmt: skip


def neighbours(root: Path, own: Iterable[int]) -> list[Finding]:
    """Other programs on the hooks that capture uses."""
    try:
        found = cohabitants([root], own)
    except (LoaderError, OSError) as error:
        return [Finding("hooks", Level.ODD, f"cannot be listed: {error}")]
    if not found:
        return [Finding("hooks", Level.GOOD, f"no program of others on {root}")]
    return [
        Finding("hooks", Level.ODD, f"program {other.program_id} {other.name or '(no name)'} is on {other.hook} too",
                "see 'bpftool prog show id N': a program that rewrites addresses before ours hides the mesh from it")
        for other in found
    ]  # fmt: skip
