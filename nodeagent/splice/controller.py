"""The manager's handle on the splice: programs in force as long as it is open. Nothing of it survives the manager,
nor do the flows; only what workers open is pinned, below the pins of the instance.
"""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from nodeagent.loader.abi import CLIENT_MAP, ORIGIN_MAP
from nodeagent.loader.errors import LoaderError
from nodeagent.loader.objects import MeshObject
from nodeagent.loader.pins import map_pin
from nodeagent.loader.sys import libbpf
from nodeagent.splice import abi
from nodeagent.splice.abi import Flag, Operation, SpliceAnswer, SpliceCount, Switch
from nodeagent.splice.kernel import (
    Runner,
    attach_iterator,
    attach_to_map,
    attach_tracing,
    load_if_there,
    require_tracepoint,
    splice_calls,
)  # fmt: skip
from nodeagent.splice.splicer import program_pin

if TYPE_CHECKING:
    from nodeagent.splice.selftest import SelfTest

OBJECT_PATH: Final = Path(__file__).parent.parent / "loader" / abi.OBJECT_NAME
DEFAULT_LIMIT: Final = 16 * 1024 * 1024
DEFAULT_PATIENCE: Final = 200_000
MIN_LIMIT: Final = 64 * 1024
MAX_LIMIT: Final = 64 * 1024 * 1024
CAP_SHARE: Final = 4
"""The node's cap, where none is configured: this part of the memory at which the kernel begins to press TCP."""
TCP_MEM: Final = Path("/proc/sys/net/ipv4/tcp_mem")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MAX_FLOWS: Final = 65536
"""``MESH_MAX_SPLICES``."""
_IOCTL: Final = {"x86_64": 16, "aarch64": 29}
"""Machine -> number of ioctl(2)."""
_PINNED_MAPS: Final = (abi.FLOW_MAP, abi.SOCKET_MAP, abi.BROKEN_MAP, abi.HASH_MAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpliceSettings:
    """What an operator may turn; bytes."""

    limit: int = DEFAULT_LIMIT
    """What may wait unread in one direction of one flow (a message costs 4 KiB beside its bytes); less where the
    reader's socket has small buffers."""
    cap: int | None = None
    """... on the whole node. None: a quarter of the memory at which the kernel begins to press TCP."""
    allow_blocking: bool = False
    """Also splice where a reader blocks in recv(). The kernel answers such readers EAGAIN now and then (at a signal,
    at a reset, when the socket becomes writable), which few programs expect.
    """
    patience: int = DEFAULT_PATIENCE
    """Nanoseconds that a send may be held, busily, for its receiver to catch up before bytes go to the relay, or to
    come out of its socket. Nobody waits where it is 0, as it is on a machine with one CPU.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SpliceStatus:
    """What an operator should know; plain data."""

    running: bool
    reason: str
    """Why it is not running; empty if it is."""
    flows: int
    queued: int
    """Cost, in bytes, of everything that is redirected and not read."""
    limit: int
    cap: int
    counters: dict[str, int]


class _Flow(NamedTuple):
    """What a sweep has to know of a flow."""

    number: int
    readers: tuple[int, ...]
    """Cookies of the sockets for which bytes are queued."""
    flags: Flag
    owner: int

    @classmethod
    def unpack(cls, number: int, packed: bytes) -> _Flow:
        ways, ends, flags, owner = abi.FLOW.codec.unpack(packed)
        names = [name for name, _ in abi.WAY.fields]
        found = [dict(zip(names, way, strict=True)) for way in abi.WAY.codec.iter_unpack(ways)]
        client, server = (end[0] for end in abi.END.codec.iter_unpack(ends))
        readers = zip((server, client), found, strict=True)
        waiting = tuple(cookie for cookie, way in readers if way["charged"] and way["tail"] > way["consumed"])
        return cls(number, waiting, Flag(flags), owner)


class SpliceController:
    """Loads and attaches at construction; LoaderError says what the kernel lacks. ``close`` leaves every flow
    relayed.
    """

    def __init__(self, pin_dir: Path, cgroup_root: Path, settings: SpliceSettings | None = None) -> None:
        self._sys = splice_calls()
        self._settings = settings or SpliceSettings()
        self._pressure = _pressure_pages()
        self._killed = ""
        self._forbidden = ""
        self._guarded = False
        self.legs_off = ""
        """Why no leg of a flow that leaves the node is joined; empty if legs are, wherever flows are spliced."""
        self._room = pin_dir / abi.ROOM
        self._object = MeshObject(OBJECT_PATH)
        self._held = ExitStack()
        with ExitStack() as undo:
            undo.push(self._held)
            self._held.callback(self._object.close)
            self._load(pin_dir)
            self._control = Runner(
                self._object.program_fd(abi.CONTROL_PROGRAM), abi.REQUEST_OFFSET + abi.REQUEST.size
            )  # fmt: skip
            self._held.callback(self._stop)
            self._attach(cgroup_root)
            self._pin(pin_dir)
            undo.pop_all()

    def close(self) -> None:
        """Everything passes from now on; then programs, links and pins go."""
        self._held.close()

    @property
    def programs(self) -> dict[str, int]:
        """Program on the hooks of the cgroup -> the kernel's id of it."""
        fds = {name: self._object.program_fd(name) for name in abi.CGROUP_PROGRAMS}
        return {name: int(libbpf().info(fd, "prog").id) for name, fd in fds.items()}

    @property
    def limit(self) -> int:
        """Of one direction; within MIN_LIMIT and MAX_LIMIT."""
        return min(max(self._settings.limit, MIN_LIMIT), MAX_LIMIT)

    @property
    def cap(self) -> int:
        """Of the node; never more than half of the memory at which the kernel begins to press TCP."""
        most = self._pressure * PAGE // 2
        return min(most, self._settings.cap or self._pressure * PAGE // CAP_SHARE)

    def switch(self, *, on: bool, why: str = "switched off") -> None:
        """The kill switch, in force at once: live flows go back to relay (or may be spliced again), and none breaks.
        What the self-test forbids stays off. ``why`` is told as long as it is off.
        """
        self._killed = "" if on else why
        self._configure()

    def obey(self, result: SelfTest) -> None:
        """Put in force what the self-test found."""
        self._forbidden = result.off
        self.legs_off = result.legs_off
        if result.guard_fionread and not self._guarded:
            self._hold(attach_tracing(self._object.program_fd(abi.FIONREAD_PROGRAM)))
            self._guarded = True
        self._configure()

    @property
    def reason(self) -> str:
        """Why nothing is spliced; empty if flows are."""
        return self._forbidden or self._killed

    def sweep(self, gone: int | None = None) -> int:
        """Let go of forgotten flows whose reader is gone, and of all flows of the dead worker ``gone``; how many.
        Call it every few seconds and when a worker died.
        """
        dropped = 0
        for flow in self._flows():
            lost = flow.owner == gone or (Flag.FORGOTTEN in flow.flags and not self._awaited(flow))
            if lost:
                dropped += self._ask(Operation.RELEASE, flow.number) is SpliceAnswer.DONE
        return dropped

    def status(self) -> SpliceStatus:
        """Everything at a glance (walks the flows)."""
        return SpliceStatus(
            running=not self.reason,
            reason=self.reason, flows=len(self._flows()), queued=self.queued(),
            limit=self.limit, cap=self.cap, counters=self.counters(),
        )  # fmt: skip

    def queued(self) -> int:
        """Cost, in bytes, of everything on the node that is redirected and not read."""
        value = self._sys.ffi.new("int64_t *")
        self._read(abi.TOTAL_MAP, self._sys.ffi.new("uint32_t *", 0), value)
        return int(value[0])

    def counters(self) -> dict[str, int]:
        """What the programs counted, by name (``abi.CaptureCount``, lower case)."""
        values = self._sys.ffi.new("uint64_t[]", self._sys.possible_cpus())
        totals = {}
        for counter in SpliceCount:
            self._read(abi.COUNT_MAP, self._sys.ffi.new("uint32_t *", counter), values)
            totals[counter.name.lower()] = sum(values)
        return totals

    # -- steps -------------------------------------------------------------------------------------------------------

    def _load(self, pin_dir: Path) -> None:
        require_tracepoint(abi.TRACEPOINT, abi.TRACEPOINT_SINCE)
        for name in (ORIGIN_MAP, CLIENT_MAP):
            pin = map_pin(pin_dir, name)
            if not pin.exists():
                raise LoaderError(f"{pin} is missing: capture has to be in force before anything can be spliced")
            self._object.reuse(name, pin)
        self._sees_rings = load_if_there(self._object.programs[abi.RING_PROGRAM], abi.RING_TRACEPOINT)
        self._object.load()

    def _attach(self, cgroup_root: Path) -> None:
        self._configure()
        attach_to_map(
            self._object.program_fd(abi.VERDICT_PROGRAM), self._object.map_fd(abi.HASH_MAP), abi.SK_MSG_VERDICT
        )  # fmt: skip
        self._admit = attach_iterator(self._object.program_fd(abi.ADMIT_PROGRAM), self._object.map_fd(abi.ENTER_MAP))
        self._hold(self._admit)
        for name in (*abi.TRACING_PROGRAMS, *([abi.RING_PROGRAM] if self._sees_rings else [])):
            self._hold(attach_tracing(self._object.program_fd(name)))
        root = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, hook in abi.CGROUP_PROGRAMS.items():
                self._hold(self._sys.attach(self._object.program_fd(name), root, hook))
        finally:
            os.close(root)

    def _hold(self, fd: int) -> None:
        self._held.callback(os.close, fd)

    def _pin(self, pin_dir: Path) -> None:
        pins = {map_pin(self._room, name): self._object.map_fd(name) for name in _PINNED_MAPS}
        pins[program_pin(pin_dir, abi.CONTROL_PROGRAM)] = self._object.program_fd(abi.CONTROL_PROGRAM)
        pins[program_pin(pin_dir, abi.ADMIT_PROGRAM)] = self._admit
        self._held.callback(self._unpin)
        self._unpin()
        for path, fd in pins.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sys.pin(fd, path)

    def _unpin(self) -> None:
        for directory in (self._room / "maps", self._room / "programs"):
            for pin in directory.glob("*"):
                pin.unlink()

    def _stop(self) -> None:
        self.switch(on=False)

    def _configure(self) -> None:
        switches = Switch.ALLOW_BLOCKING if self._settings.allow_blocking else Switch(0)
        if self.reason:
            switches |= Switch.STOPPED
        if self.legs_off:
            switches |= Switch.NO_LEGS
        if self._sees_rings:
            switches |= Switch.SEES_RINGS
        packed = abi.CONFIG.codec.pack(
            self.limit, self.cap, self._pressure, switches, _IOCTL.get(platform.machine(), -1), 0,
            self._settings.patience if (os.cpu_count() or 1) > 1 else 0,
        )  # fmt: skip
        ffi = self._sys.ffi
        result = self._sys.lib.bpf_map_update_elem(
            self._object.map_fd(abi.CONFIG_MAP), ffi.new("uint32_t *", 0), ffi.from_buffer(packed), 0
        )
        self._sys.check(result, "cannot configure the splice")

    def _read(self, name: str, key: object, value: object) -> None:
        result = self._sys.lib.bpf_map_lookup_elem(self._object.map_fd(name), key, value)
        self._sys.check(result, f"cannot read the map {name}")

    def _flows(self) -> list[_Flow]:
        ffi, lib, fd = self._sys.ffi, self._sys.lib, self._object.map_fd(abi.FLOW_MAP)
        key, value = ffi.new("uint64_t *"), ffi.new("char[]", abi.FLOW.size)
        keys: list[int] = []
        result = lib.bpf_map_get_next_key(fd, ffi.NULL, key)
        while result == 0 and len(keys) <= MAX_FLOWS:
            keys.append(int(key[0]))
            result = lib.bpf_map_get_next_key(fd, key, key)
        found = []
        for number in keys:
            key[0] = number
            if lib.bpf_map_lookup_elem(fd, key, value) == 0:
                found.append(_Flow.unpack(number, bytes(ffi.buffer(value))))
        return found

    def _awaited(self, flow: _Flow) -> bool:
        """Whether bytes are queued for an application that still holds its socket."""
        return any(self._present(cookie) for cookie in flow.readers)

    def _present(self, cookie: int) -> bool:
        ffi = self._sys.ffi
        fd = self._object.map_fd(abi.HASH_MAP)
        return bool(
            self._sys.lib.bpf_map_lookup_elem(fd, ffi.new("uint64_t *", cookie), ffi.new("uint64_t *")) == 0
        )  # fmt: skip

    def _ask(self, operation: Operation, flow: int) -> SpliceAnswer:
        nowhere = bytes(20)
        abi.REQUEST.codec.pack_into(self._control.packet, abi.REQUEST_OFFSET, operation, 0, flow, nowhere, nowhere, b"")
        return SpliceAnswer(self._control.run())


def _pressure_pages() -> int:
    """Pages of TCP memory at which the kernel begins to press its users."""
    try:
        return int(TCP_MEM.read_text().split()[1])
    except FileNotFoundError:  # only the host's first network namespace shows it: then what the kernel sets by default
        return os.sysconf("SC_PHYS_PAGES") // 16
