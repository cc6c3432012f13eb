"""A scratch node for tests against the real kernel: its own cgroups, network namespace and BPF file system.

``Lab.client`` runs a function in a process of its own inside a cgroup of the lab, ``Lab.inside`` in a thread inside its
network namespace. Nothing is left behind.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from control.wire.address import SocketAddress, canonical_ip
from control.wire.discovery import Selectors, Workload
from nodeagent.capture.cgroups import CgroupError, cgroup2_mount
from nodeagent.capture.controller import Capture, CaptureSettings
from nodeagent.capture.doors import WorkerSockets
from nodeagent.capture.origdst import CapturedFlow, FlowTable
from nodeagent.capture.plan import DestinationPlan, Enrolment, Entry
from nodeagent.loader.errors import LoaderError
from nodeagent.loader.features import probe
from nodeagent.loader.objects import OBJECT_PATH
from nodeagent.namespaces.handle import Namespace, current_cookie
from tests.support.degraded import flips, says_why
from tests.support.pace import patient

T = TypeVar("T")
HERE = Path(__file__).parent
CAPTURE_PORT = 15001
CLIENT_SECONDS = patient(10.0)
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _why_not() -> str | None:
    """Why the kernel cannot be tested here, or None."""
    if os.geteuid() != 0:
        return "not root"
    try:
        probe(cgroup2_mount(Path("/proc/self/mounts").read_text())).require()
    except (LoaderError, CgroupError, OSError) as error:
        return str(error)
    return None if OBJECT_PATH.exists() else f"{OBJECT_PATH} is not built; run 'make -C bpf'"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with the reason; with MESH_REQUIRE_KERNEL=1 the conftest above makes a skip a failure."""
    mine = [item for item in items if HERE in item.path.parents]
    reason = _why_not() if mine else None
    for item in mine if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"the kernel cannot be tested here: {reason}"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """On a kernel that cannot splice: the controller refuses, says why, and leaves nothing."""
    if not flips(pyfuncitem):
        return None
    from tests.kernel.splicing import SpliceLab  # which needs this module

    lab = pyfuncitem.funcargs["lab"]
    with pytest.raises(LoaderError) as refused:
        SpliceLab(lab, instance="degraded")  # the test's own fixtures may have an agent's pins
    says_why(str(refused.value))
    assert not list(lab.bpffs.glob("**/splice/*/*"))
    return True


@dataclass(frozen=True)
class Family:
    """One of the three ways to speak IP."""

    name: str
    af: socket.AddressFamily
    prefix: str
    """Turns the text of an address of the right family into what the application connects to."""
    virtual: str
    """A virtual address: routed nowhere."""
    local: str
    """An address of the lab's loopback interface."""
    loopback: str

    def address(self, ip: str) -> str:
        return self.prefix + ip


FAMILIES = [
    Family("v4", socket.AF_INET, "", "240.240.0.10", "10.9.9.9", "127.0.0.1"),
    Family("v6", socket.AF_INET6, "", "fd6d:6573:68::10", "fd09::9", "::1"),
    Family("mapped", socket.AF_INET6, "::ffff:", "240.240.0.10", "10.9.9.9", "127.0.0.1"),
]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Lab:
    """One scratch node."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        name = f"nodemesh-test-{os.getpid()}-{time.monotonic_ns()}"
        self.stack = stack
        self.root = cgroup2_mount(Path("/proc/self/mounts").read_text()) / name
        self.cgroup("")
        self.bpffs = directory / "bpffs"
        self.bpffs.mkdir()
        subprocess.run(["mount", "-t", "bpf", "bpf", str(self.bpffs)], check=True)
        self.stack.callback(subprocess.run, ["umount", "--lazy", str(self.bpffs)], check=True)
        self.netns = self._make_netns()
        self.settings = CaptureSettings(bpffs=self.bpffs, instance="test", cgroup_root=self.root)

    def cgroup(self, path: str) -> Path:
        """Make a cgroup (and forget it at the end)."""
        directory = self.root / path
        if not directory.exists():
            directory.mkdir()
            self.stack.callback(lambda: directory.exists() and directory.rmdir())
        return directory

    def _make_netns(self) -> int:
        found: list[int] = []

        def make() -> None:
            if _libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
            for command in (
                "link set lo up", "addr add 10.9.9.9/32 dev lo", "addr add fd09::9/128 dev lo nodad",
            ):  # fmt: skip
                subprocess.run(["ip", *command.split()], check=True)

        in_thread(make)
        self.stack.callback(os.close, found[0])
        return found[0]

    def inside(self, function: Callable[[], T]) -> T:
        """The function's result, in the lab's network namespace."""

        def run() -> T:
            setns(self.netns)
            return function()

        return in_thread(run)

    def client(self, cgroup: Path, function: Callable[[], Any], uid: int = 0) -> Any:
        """The function's result in a process in that cgroup and in the lab's network namespace; exceptions travel."""
        return finish(self.start(cgroup, function, uid))

    def start(self, cgroup: Path, function: Callable[[], Any], uid: int = 0) -> tuple[int, int]:
        """Like ``client``, but to be waited for with ``finish``."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))
                setns(self.netns)
                if uid:
                    os.setuid(uid)
                answer: tuple[bool, Any] = (True, function())
            except BaseException as error:
                answer = (False, error if isinstance(error, OSError) else RuntimeError(traceback.format_exc()))
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
        os.close(writer)
        return pid, reader

    def made_in(self, cgroup: Path, make: Callable[[], socket.socket]) -> socket.socket:
        """The socket that the function makes in a process in that cgroup and in the lab's namespace: it stays the
        cgroup's, whoever holds it. OSErrors travel.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def send() -> None:
            with make() as made:
                socket.send_fds(theirs, [b"."], [made.fileno()])

        with ours, theirs:
            self.client(cgroup, send)
            received = socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0])
        received.settimeout(CLIENT_SECONDS)
        self.stack.callback(received.close)
        return received

    def capture(self) -> Capture:
        """An opened Capture that serves the lab's namespace, and is unloaded with the bpffs at the end."""
        capture = Capture.open(self.settings)
        self.stack.callback(capture.close)
        return capture

    def listen(self, address: str, port: int) -> socket.socket:
        """A listener in the lab's namespace."""

        def make() -> socket.socket:
            listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(64)
            listener.settimeout(CLIENT_SECONDS)
            return listener

        listener = self.inside(make)
        self.stack.callback(listener.close)
        return listener


def in_thread(function: Callable[[], T]) -> T:
    """Run in a thread that dies afterwards, with whatever namespace it entered."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def finish(started: tuple[int, int]) -> Any:
    """The answer of a started client."""
    pid, reader = started
    try:
        if not select.select([reader], [], [], CLIENT_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError("the client did not finish")
        with os.fdopen(reader, "rb", closefd=False) as stream:
            good, value = pickle.loads(stream.read())
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    if not good:
        raise value
    return value


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(tmp_path, stack)


class Standing:
    """Plays an accepted socket whose connection stands."""

    def getsockopt(self, *_: int) -> bytes:
        return b"\x01"


class Node:
    """A lab with an agent's capture in force: ``app`` is enrolled, ``plain`` is not."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.app = lab.cgroup("app")
        self.plain = lab.cgroup("plain")
        self.capture = Capture.open(lab.settings)
        lab.stack.callback(self._close)
        self.local = [workload("shop/app", "/app")]
        self.cookie = lab.inside(current_cookie)
        self.flows = FlowTable(self.capture.pin_dir, self.cookie)
        lab.stack.callback(self.flows.close)
        self.sockets = WorkerSockets(self.capture.pin_dir, 0)
        lab.stack.callback(self.sockets.close)
        self.listeners = {ip: lab.listen(ip, CAPTURE_PORT) for ip in ("127.0.0.1", "::1")}
        for ip, listener in self.listeners.items():
            self.sockets.meet(self.cookie, SocketAddress(ip, CAPTURE_PORT), listener.fileno())
        lab.inside(lambda: self.capture.set_listeners(CAPTURE_PORT))

    def _close(self) -> None:
        self.capture.close()  # whichever it is by then

    def guard(self) -> Namespace:
        """The agent's ports are nobody else's in the lab's namespace."""
        namespace = Namespace(os.dup(self.lab.netns))
        self.lab.stack.callback(namespace.close)
        assert self.capture.guard(namespace) == []
        return namespace

    def mesh(self, *addresses: tuple[str, int]) -> Enrolment:
        """Make these the mesh's destinations."""
        return self.capture.sync(self.local, destinations(*addresses))

    def accept(self, family: Family) -> tuple[socket.socket, SocketAddress]:
        """The next captured connection, and where it comes from."""
        connection, peer = self.listeners[family.loopback].accept()
        self.lab.stack.callback(connection.close)
        return connection, SocketAddress(canonical_ip(peer[0]), peer[1])

    def record(self, source: SocketAddress) -> CapturedFlow | None:
        """The record under that key, whatever became of its connection."""
        return self.flows.take(source, Standing())

    def take(self, family: Family) -> CapturedFlow | None:
        """The record of the next connection."""
        connection, source = self.accept(family)
        return self.flows.take(source, connection)


def destinations(*addresses: tuple[str, int]) -> DestinationPlan:
    return DestinationPlan({SocketAddress(ip, port): Entry(7, 1) for ip, port in addresses})


def workload(uid: str, cgroup_path: str | None = None, unit: str | None = None, user: int | None = None) -> Workload:
    """A workload of which only the selectors matter."""
    namespace, name = uid.split("/")
    return Workload(
        uid=uid, name=name, namespace=namespace, node="n", identity=f"spiffe://mesh.internal/ns/{namespace}/sa/{name}",
        addresses=("10.9.9.9",), ports=(8080,),
        selectors=Selectors(systemd_unit=unit, cgroup_path=cgroup_path, uid=user),
        sni=f"{name}.{namespace}.workload.mesh.internal", labels={}, canonical_service=name,
        canonical_revision="latest", app=name, version="", cluster="", service_account=name,
    )  # fmt: skip


@pytest.fixture
def node(lab: Lab) -> Node:
    return Node(lab)


def connect(family: Family, ip: str, port: int, source: tuple[str, int] | None = None) -> dict[str, Any]:
    """In a client: connect, and tell what the socket says."""
    with socket.socket(family.af) as client:
        client.settimeout(CLIENT_SECONDS)
        if source:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(source)
        client.connect((family.address(ip), port))
        cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
        return {
            "peer": client.getpeername()[:2], "name": client.getsockname()[:2], "cookie": cookie, "pid": os.getpid(),
        }  # fmt: skip
