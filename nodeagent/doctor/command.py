"""The doctor's verbs, over what the running agent answers (None: nobody answers)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from control.codec.values import DecodeError, decode, to_json
from control.wire.discovery import KINDS, DiscoveryObject, EgressMode
from control.wire.watch import Batch, Change
from nodeagent.capture.cgroups import CgroupError, cgroup2_mount, cgroup_id
from nodeagent.config import Config
from nodeagent.doctor import host, network, surroundings, workloads
from nodeagent.doctor.finding import Finding
from nodeagent.loader.cohabitants import packet_filters
from nodeagent.loader.errors import LoaderError
from nodeagent.state.view import NodeState

MAX_CGROUPS = 20_000
"""Cgroups of a host that are walked to count processes."""
PLURALS = {"workloads": "workload", "services": "service", "policies": "policy", "settings": "mesh"}

Ask = Callable[[str], Any]
"""The name of a document -> the document; OSError or ValueError if no agent answers."""


def examine(config: Config, ask: Ask, settle: Callable[[], None] = lambda: None) -> list[Finding]:
    """Look at everything. ``settle`` waits, for a moment, until everything that is enrolled is captured."""
    documents: dict[str, Any] = {}
    settle()
    with contextlib.suppress(OSError, ValueError):
        documents = {name: ask(name) for name in ("status", "workloads", "capture")}
    capture = documents.get("capture", {})
    findings = host.look(config, [*capture.get("programs", {}).values(), *capture.get("companions", {}).values()])
    findings += network.ports(config, bool(documents)) + network.control(config)
    findings += workloads.agent(documents.get("status"))
    rows = documents.get("workloads", [])
    findings += surroundings.look(config, any(row["egress"] != EgressMode.ALLOW_ANY.value for row in rows))
    if documents:
        processes, directories = processes_by_cgroup(config)
        findings += workloads.each(rows, capture, lambda cgroup: _count(processes.get(cgroup)))
        findings += surroundings.each(
            rows, lambda cgroup: processes.get(cgroup, ()), lambda cgroup: _filters(directories.get(cgroup))
        )
        findings += workloads.egress(documents["status"]["egress"])
    return findings


def _count(found: list[int] | None) -> int | None:
    return None if found is None else len(found)


def _filters(directory: Path | None) -> list[str]:
    with contextlib.suppress(LoaderError, OSError):
        return packet_filters(directory) if directory is not None else []
    return []


def processes_by_cgroup(config: Config) -> tuple[dict[int, list[int]], dict[int, Path]]:
    """Cgroup id -> processes in it and below, and its directory, of at most MAX_CGROUPS."""
    try:
        root = config.cgroup_root or cgroup2_mount(Path("/proc/self/mounts").read_text())
    except (CgroupError, OSError):
        return {}, {}
    own: dict[Path, list[int]] = {}
    for number, procs in enumerate(root.rglob("cgroup.procs")):
        if number >= MAX_CGROUPS:
            break
        with contextlib.suppress(OSError):
            own[procs.parent] = [int(pid) for pid in procs.read_text().split()]
    totals: dict[Path, list[int]] = {path: [] for path in own}
    for path, pids in own.items():
        for above in (path, *path.parents):
            if above in totals:
                totals[above] += pids
    directories = {found: path for path in totals if (found := cgroup_id(path)) is not None}
    return {found: totals[path] for found, path in directories.items()}, directories


def state_of(document: Mapping[str, Any]) -> NodeState:
    """The agent's read model, made again from its ``state`` document. ValueError if it is of another version."""
    state = NodeState()
    if not document["loaded"]:
        return state
    changes = []
    for plural, kind in PLURALS.items():
        for value in document.get(plural, ()):
            try:
                item: DiscoveryObject = decode(KINDS[kind], value)
            except DecodeError as error:
                raise ValueError(f"{plural}: {error}") from error
            changes.append(Change(kind=kind, uid=item.uid, value=to_json(value)))
    state.apply(Batch(instance="copy", revision=document["revision"], snapshot=True, changes=tuple(changes)))
    return state
