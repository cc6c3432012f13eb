"""Which other programs sit on our hooks. They run as well, before or after ours; an operator should know of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nodeagent.loader.abi import PROGRAMS, WIRE_PROGRAM, AttachType
from nodeagent.loader.errors import BpfError
from nodeagent.loader.sys import libbpf

MAX_CGROUPS = 64
"""How many cgroups one report looks at."""


@dataclass(frozen=True, slots=True)
class CoHabitant:
    """A program of somebody else that runs for connections of this cgroup."""

    cgroup: str
    hook: str
    program_id: int
    name: str


def cohabitants(cgroups: Iterable[Path], own: Iterable[int]) -> tuple[CoHabitant, ...]:
    """Programs on our hooks in effect for these cgroups (the first MAX_CGROUPS of them), without our own."""
    mine = set(own)
    found: dict[tuple[str, int], CoHabitant] = {}
    for cgroup in list(cgroups)[:MAX_CGROUPS]:
        try:
            fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            for hook in PROGRAMS.values():
                for program in libbpf().attached_programs(fd, hook, effective=True):
                    if program not in mine and (hook.name, program) not in found:
                        entry = CoHabitant(str(cgroup), hook.name.lower(), program, _name(program))
                        found[hook.name, program] = entry
        finally:
            os.close(fd)
    return tuple(found.values())


def packet_filters(cgroup: Path) -> list[str]:
    """Names of the programs that see the packets of this cgroup's sockets, without our own. BpfError, OSError."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = [
            p
            for hook in (AttachType.INET_INGRESS, AttachType.INET_EGRESS)
            for p in libbpf().attached_programs(fd, hook, effective=True)
        ]
    finally:
        os.close(fd)
    names = (_name(program) or f"program {program}" for program in dict.fromkeys(found))
    return [name for name in names if name != WIRE_PROGRAM]


def _name(program_id: int) -> str:
    """The program's name; empty if it went away meanwhile."""
    try:
        fd = libbpf().program_fd(program_id)
    except BpfError:
        return ""
    try:
        return libbpf().info_name(libbpf().info(fd, "prog"))
    finally:
        os.close(fd)
