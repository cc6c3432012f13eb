"""What this kernel can do, found by doing it: never by its version. Absence is told apart from a probe that failed
for another reason.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from nodeagent.loader.abi import AttachType
from nodeagent.loader.errors import BpfError, FeatureMissingError
from nodeagent.loader.sys import libbpf

_ABSENT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, 524)
"""What the kernel answers to a request that it does not know (524 is its internal ENOTSUPP)."""

_MAP_ARRAY, _MAP_LRU_HASH, _MAP_SK_STORAGE = 2, 9, 24
_PROG_CGROUP_SOCK, _PROG_SOCK_OPS, _PROG_SOCK_ADDR, _PROG_SK_LOOKUP = 9, 13, 18, 30
_SOCKET_COOKIE, _NETNS_COOKIE, _ANCESTOR, _PROBE_READ_KERNEL = 46, 122, 123, 113
_INSTRUCTION = struct.Struct("=BBhi")


class Support(StrEnum):
    """The answer of one probe."""

    YES = "supported"
    NO = "not supported"
    UNKNOWN = "probe failed"


@dataclass(frozen=True, slots=True)
class Feature:
    """One ability of the kernel that capture needs."""

    name: str
    support: Support
    option: str
    """The kernel option to switch on where it is missing."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """Everything that was probed. All are required: half a capture is worse than none."""

    features: tuple[Feature, ...]

    def missing(self) -> tuple[Feature, ...]:
        """What is absent or could not be found out."""
        return tuple(feature for feature in self.features if feature.support is not Support.YES)

    def require(self) -> None:
        """FeatureMissingError that names every kernel option to switch on, or the privilege that the probes lacked."""
        absent = [f"{f.name} (kernel option {f.option})" for f in self.missing() if f.support is Support.NO]
        failed = [f"{f.name} ({f.detail})" for f in self.missing() if f.support is Support.UNKNOWN]
        if len(failed) == len(self.features):  # one cause, not many
            failed = [f"bpf(2) is refused ({self.features[0].detail})"]
        if absent:
            raise FeatureMissingError("this kernel cannot capture connections; it lacks " + ", ".join(absent))
        if failed:
            raise FeatureMissingError(
                "cannot find out what this kernel can do: " + ", ".join(failed)
                + "; the agent needs root, or CAP_BPF and CAP_NET_ADMIN, outside of a user namespace"
            )  # fmt: skip


def probe(cgroup_root: Path) -> Features:
    """Load small programs, make small maps, attach a program that lets everything pass to the cgroup for a moment."""
    attempts: list[tuple[str, str, Callable[[], None]]] = [
        ("bpf(2)", "CONFIG_BPF_SYSCALL", _map),
        ("take from a map", "CONFIG_BPF_SYSCALL, Linux 5.14 or later", _take),
        ("socket storage", "CONFIG_BPF_SYSCALL and CONFIG_NET", _socket_storage),
        ("cgroup links", "CONFIG_CGROUP_BPF", partial(_attach, cgroup_root)),
    ]
    attempts += [(hook.name.lower(), option, partial(_program, hook)) for hook, option in _HOOKS.items()]
    return Features(tuple(_probe_one(*attempt) for attempt in attempts))


_HOOKS = {
    AttachType.INET4_CONNECT: "CONFIG_CGROUP_BPF and CONFIG_INET",
    AttachType.INET6_CONNECT: "CONFIG_CGROUP_BPF and CONFIG_IPV6",
    AttachType.INET4_GETPEERNAME: "CONFIG_CGROUP_BPF and CONFIG_INET, Linux 5.8 or later",
    AttachType.INET6_GETPEERNAME: "CONFIG_CGROUP_BPF and CONFIG_IPV6, Linux 5.8 or later",
    AttachType.INET_SOCK_CREATE: "CONFIG_CGROUP_BPF and CONFIG_INET",
    AttachType.INET_SOCK_RELEASE: "CONFIG_CGROUP_BPF and CONFIG_INET, Linux 5.9 or later",
    AttachType.INET4_POST_BIND: "CONFIG_CGROUP_BPF and CONFIG_INET",
    AttachType.INET6_POST_BIND: "CONFIG_CGROUP_BPF and CONFIG_IPV6",
    AttachType.UDP4_SENDMSG: "CONFIG_CGROUP_BPF and CONFIG_INET",
    AttachType.UDP6_SENDMSG: "CONFIG_CGROUP_BPF and CONFIG_IPV6",
    AttachType.UDP4_RECVMSG: "CONFIG_CGROUP_BPF and CONFIG_INET, Linux 5.2 or later",
    AttachType.UDP6_RECVMSG: "CONFIG_CGROUP_BPF and CONFIG_IPV6, Linux 5.2 or later",
    AttachType.SK_LOOKUP: "CONFIG_BPF_SYSCALL and CONFIG_INET, Linux 5.9 or later",
    AttachType.SOCK_OPS: "CONFIG_CGROUP_BPF and CONFIG_INET, Linux 5.15 or later",
}


def reads_kernel() -> bool:
    """Whether programs on addresses may read the kernel's own structures: lockdown (confidentiality) forbids it."""
    code = b"".join(_INSTRUCTION.pack(*parts) for parts in (
        (0xBF, 0xA1, 0, 0), (0x07, 0x01, 0, -8), (0xB7, 0x02, 0, 4), (0xB7, 0x03, 0, 0),  # r1 = fp - 8; r2 = 4; r3 = 0
        (0x85, 0, 0, _PROBE_READ_KERNEL), (0xB7, 0, 0, 1), (0x95, 0, 0, 0),  # call; r0 = 1; exit
    ))  # fmt: skip
    try:
        os.close(libbpf().load_program(_PROG_SOCK_ADDR, AttachType.INET4_CONNECT, code))
    except BpfError:
        return False
    return True


def _probe_one(name: str, option: str, attempt: Callable[[], None]) -> Feature:
    try:
        attempt()
    except BpfError as error:
        support = Support.NO if error.code in _ABSENT else Support.UNKNOWN
        return Feature(name, support, option, str(error))
    except OSError as error:
        return Feature(name, Support.UNKNOWN, option, str(error))
    return Feature(name, Support.YES, option)


def _map() -> None:
    os.close(libbpf().create_map(_MAP_ARRAY, 4, 8, 1))


def _take() -> None:
    sys = libbpf()
    fd = sys.create_map(_MAP_LRU_HASH, 4, 8, 1)
    try:
        key, value = sys.ffi.new("char[4]"), sys.ffi.new("char[8]")
        sys.check(sys.lib.bpf_map_update_elem(fd, key, value, 0), "cannot write to a map")
        sys.check(sys.lib.bpf_map_lookup_and_delete_elem(fd, key, value), "cannot take from a map")
    finally:
        os.close(fd)


def _socket_storage() -> None:
    answer = libbpf().probe_map_type(_MAP_SK_STORAGE)
    if answer == 0:
        raise BpfError("the kernel knows no socket storage", errno.EINVAL)
    libbpf().check(answer, "cannot probe for socket storage")


def _attach(cgroup_root: Path) -> None:
    sys = libbpf()
    program = sys.load_program(_PROG_SOCK_ADDR, AttachType.INET4_CONNECT, _instructions())
    try:
        root = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.close(sys.attach(program, root, AttachType.INET4_CONNECT))
        finally:
            os.close(root)
    finally:
        os.close(program)


def _program(hook: AttachType) -> None:
    """A program of that hook that calls the helpers which ours calls there."""
    helpers: tuple[int, ...]
    if hook is AttachType.SK_LOOKUP:
        kind, helpers = _PROG_SK_LOOKUP, ()
    elif hook is AttachType.SOCK_OPS:
        kind, helpers = _PROG_SOCK_OPS, (_SOCKET_COOKIE, _NETNS_COOKIE)
    elif hook is AttachType.INET_SOCK_RELEASE:
        kind, helpers = _PROG_CGROUP_SOCK, ()
    elif hook is AttachType.INET_SOCK_CREATE:
        kind, helpers = _PROG_CGROUP_SOCK, (_ANCESTOR,)
    elif hook in (AttachType.INET4_POST_BIND, AttachType.INET6_POST_BIND):
        kind, helpers = _PROG_CGROUP_SOCK, (_NETNS_COOKIE,)
    elif hook in (
        AttachType.INET4_CONNECT, AttachType.INET6_CONNECT, AttachType.UDP4_SENDMSG, AttachType.UDP6_SENDMSG
    ):  # fmt: skip
        kind, helpers = _PROG_SOCK_ADDR, (_NETNS_COOKIE, _ANCESTOR, _SOCKET_COOKIE)
    else:
        kind, helpers = _PROG_SOCK_ADDR, (_SOCKET_COOKIE,)
    os.close(libbpf().load_program(kind, hook, _instructions(*helpers)))


def _instructions(*helpers: int) -> bytes:
    """Call each helper with the context (or a zero) as its argument, and answer 1."""
    code = [_INSTRUCTION.pack(0xBF, 0x16, 0, 0)]  # r6 = r1
    for helper in helpers:
        argument = _INSTRUCTION.pack(0xB7, 0x01, 0, 0) if helper == _ANCESTOR else _INSTRUCTION.pack(0xBF, 0x61, 0, 0)
        code += [argument, _INSTRUCTION.pack(0x85, 0, 0, helper)]  # r1 = 0 or r6; call
    code += [_INSTRUCTION.pack(0xB7, 0, 0, 1), _INSTRUCTION.pack(0x95, 0, 0, 0)]  # r0 = 1; exit
    return b"".join(code)
