"""Support of the splice's kernel tests: a lab with the splice in force, flows through it, and bytes to send."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nodeagent.capture.cgroups import cgroup2_mount, own_cgroup
from nodeagent.loader.abi import CLIENT_MAP, ORIGIN_MAP
from nodeagent.loader.objects import MeshObject
from nodeagent.loader.pins import PinDirectory, map_pin
from nodeagent.loader.sys import libbpf
from nodeagent.splice import abi
from nodeagent.splice.controller import SpliceController, SpliceSettings
from nodeagent.splice.scratch import Scratch, ScratchFlow
from nodeagent.splice.splicer import Splicer
from tests.kernel.conftest import Family, Lab
from tests.support.pace import patient

CHUNK = 256 * 1024


class SpliceLab:
    """The splice in force over this process, which sits in a cgroup of the lab meanwhile."""

    def __init__(self, lab: Lab, settings: SpliceSettings | None = None, instance: str = "test") -> None:
        self.lab = lab
        enter(lab, lab.root)
        self.pins = PinDirectory(lab.bpffs, instance)
        lab.stack.callback(self.pins.close)
        mesh = MeshObject()
        mesh.load()
        for name in (ORIGIN_MAP, CLIENT_MAP):
            libbpf().pin(mesh.map_fd(name), self.pins.maps / name)
        lab.stack.callback(mesh.close)
        self.controller = SpliceController(self.pins.path, lab.root, settings)
        lab.stack.callback(self.controller.close)
        self.splicer = Splicer(self.pins.path)
        lab.stack.callback(self.splicer.close)
        self.scratch = Scratch(self.pins.path, self.splicer)
        lab.stack.callback(self.scratch.close)

    @contextmanager
    def flow(self, family: Family, **options: object) -> Iterator[ScratchFlow]:
        """A flow of that family."""
        with self.scratch.flow(family.af, family.loopback, **options) as flow:  # type: ignore[arg-type]
            yield flow

    def held(self) -> int:
        """How many sockets are in the kernel's map."""
        sys = libbpf()
        hashed = sys.get(map_pin(self.pins.path / abi.ROOM, abi.HASH_MAP))
        try:
            count, key = 0, sys.ffi.new("uint64_t *")
            found = sys.lib.bpf_map_get_next_key(hashed, sys.ffi.NULL, key)
            while found == 0:
                count += 1
                found = sys.lib.bpf_map_get_next_key(hashed, key, key)
            return count
        finally:
            os.close(hashed)

    @contextmanager
    def spliced(self, family: Family) -> Iterator[ScratchFlow]:
        """... of which both directions are spliced."""
        with self.flow(family) as flow:
            flow.warm_up()
            yield flow


def enter(lab: Lab, cgroup: Path) -> None:
    """This process sits in that cgroup until the end of the test: only there do the programs see its sockets."""
    own = own_cgroup(Path("/proc/self/cgroup").read_text()).lstrip("/")
    before = cgroup2_mount(Path("/proc/self/mounts").read_text()) / own
    lab.stack.callback((before / "cgroup.procs").write_text, str(os.getpid()))
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


class Sender(threading.Thread):
    """Sends ``size`` random octets in writes of random sizes, then half-closes if told; ``digest`` is theirs."""

    def __init__(self, to: socket.socket, size: int, seed: int = 1, *, end: bool = False) -> None:
        super().__init__(daemon=True)
        self.to = to
        self.size = size
        self.end = end
        self.random = random.Random(seed)
        self.hash = hashlib.sha256()
        self.sent = 0
        self.error: OSError | None = None

    def run(self) -> None:
        pool = self.random.randbytes(1 << 20)
        try:
            while self.sent < self.size:
                length = min(self.random.choice((1, 100, 4096, 65536, 300_000)), self.size - self.sent)
                start = self.random.randrange(len(pool) - length)
                piece = pool[start : start + length]
                self.to.sendall(piece)
                self.hash.update(piece)
                self.sent += length
            if self.end:
                self.to.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error

    @property
    def digest(self) -> str:
        return self.hash.hexdigest()


def read_all(source: socket.socket, size: int, pause: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of the next ``size`` octets; ``pause`` is told how many there were, before each read."""
    found, got = hashlib.sha256(), 0
    while got < size:
        pause(got)
        data = source.recv(min(CHUNK, size - got))
        assert data, f"the stream ended after {got} of {size} octets"
        found.update(data)
        got += len(data)
    return found.hexdigest()


def transfer(sender: socket.socket, receiver: socket.socket, size: int, seed: int = 1) -> None:
    """One bulk transfer; the bytes arrive as they were sent."""
    thread = Sender(sender, size, seed)
    thread.start()
    digest = read_all(receiver, size)
    thread.join()
    assert thread.error is None
    assert digest == thread.digest


def tcp_memory() -> int:
    """Bytes of TCP memory in use on this machine (``/proc/net/sockstat``: pages)."""
    words = Path("/proc/net/sockstat").read_text().split("TCP:")[1].split("\n")[0].split()
    return int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Look again and again, for so long."""
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)
