"""The worker as the manager sees it: a process at the other end of a socket pair."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import TrustBundle
from nodeagent import channel
from tests.support import pki
from tests.support.peer import Peer, tls_context
from tests.support.relay import TRUST_DOMAIN, batch, workload

M = TypeVar("M")
PATIENCE_SECONDS = 20
ADDRESSES = {"v4": "127.0.0.1", "v6": "::1"}


@pytest.fixture(params=ADDRESSES.values(), ids=ADDRESSES)
def ip(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Manager:
    """The manager's end."""

    def __init__(self, process: subprocess.Popen[str], pair: socket.socket) -> None:
        self.process = process
        self.pair = pair
        self._unpacker = channel.Unpacker()
        self._heard: list[channel.Message] = []

    def start(self, ip: str, port: int, *known: channel.Message, **changes: str) -> None:
        """Start it with what is known, and wait until it has opened its listeners."""
        self.tell(start(ip, port, **changes), *known, channel.Begin())
        while not self._heard or not isinstance(self._heard[-1], channel.Ready):
            self._listen()
        assert isinstance(self._heard.pop(), channel.Ready), "the last word of its start"

    def tell(self, *messages: channel.Message) -> None:
        self.pair.sendall(b"".join(channel.pack(message) for message in messages))

    def hear(self, kind: type[M]) -> M:
        """The next message, which must be of that kind."""
        while not self._heard:
            self._listen()
        message = self._heard.pop(0)
        assert isinstance(message, kind), message
        return message

    def _listen(self) -> None:
        data = self.pair.recv(1 << 16)
        assert data, "the worker is gone: " + self.finish()[1]
        self._heard += self._unpacker.feed(data)

    def finish(self) -> tuple[int, str]:
        """Its exit status and log, once it has ended."""
        _, log = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, log


def packed(body: bytes) -> bytes:
    """A message of another version."""
    return len(body).to_bytes(4, "big") + body


@contextmanager
def running(*options: str) -> Iterator[Manager]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    command = [sys.executable, "-m", "nodeagent.worker", "--channel-fd", str(theirs.fileno()), *options]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
    theirs.close()
    try:
        yield Manager(process, ours)
    finally:
        ours.close()
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def free_port(ip: str) -> int:
    with socket.create_server((ip, 0), family=socket.AF_INET6 if ":" in ip else socket.AF_INET) as server:
        return int(server.getsockname()[1])


def start(ip: str, port: int, **changes: str) -> channel.Start:
    values = {"pin_dir": "", "access_log": "off", **changes}
    return channel.Start(
        node="b", index=0, outbound_port=0, tunnel_port=port, tunnel_addresses=(ip,), **values
    )  # fmt: skip


def test_it_tells_when_it_is_ready_and_what_it_applied(ip: str) -> None:
    with running() as manager:
        manager.start(ip, free_port(ip), channel.StateBatch(batch=batch(7, workload("far", "b", 80), snapshot=True)))
        assert manager.hear(channel.BatchApplied).revision == 7
        manager.tell(channel.StateBatch(batch=batch(8, workload("far", "b", 81))))
        assert manager.hear(channel.BatchApplied) == channel.BatchApplied(revision=8)


def test_nothing_is_accepted_before_everything_is_known(ip: str) -> None:
    port = free_port(ip)
    with running() as manager:
        snapshot = channel.StateBatch(batch=batch(7, workload("far", "b", 80), snapshot=True))
        manager.tell(start(ip, port), snapshot)
        manager.hear(channel.BatchApplied)
        manager.tell(channel.ListFlows(number=1))
        manager.hear(channel.FlowList)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ip, port))
        manager.tell(channel.EnrolmentUpdate(cgroups={"7": "far"}, edition=3), channel.Begin())
        assert manager.hear(channel.Heard).edition == 3
        manager.hear(channel.Ready)
        socket.create_connection((ip, port)).close()


def test_it_tells_its_pid_flows_and_metrics(ip: str) -> None:
    with running() as manager:
        manager.tell(channel.Collect(number=1), channel.ListFlows(number=2))  # before it was told to start
        assert manager.hear(channel.Collected).number == 1
        assert manager.hear(channel.FlowList) == channel.FlowList(number=2)
        manager.tell(start(ip, free_port(ip)), channel.Begin())
        assert manager.hear(channel.Ready).pid == manager.process.pid
        manager.tell(channel.Collect(number=3))
        collected = manager.hear(channel.Collected)
        assert collected.number == 3
        expected = {"nodemesh_live_flows", "nodemesh_tunnels", "nodemesh_access_log_dropped_total"}
        assert expected <= {sample.name for sample in collected.samples}


def test_drained_it_says_so_and_ends(ip: str) -> None:
    with running() as manager:
        manager.start(ip, free_port(ip))
        manager.tell(channel.Drain(seconds=60))
        assert manager.hear(channel.Drained) == channel.Drained(cut=0)
        assert manager.finish()[0] == 0


def test_it_ends_with_its_channel(ip: str) -> None:
    with running() as manager:
        manager.start(ip, free_port(ip))
        manager.pair.close()
        assert manager.finish()[0] == 0


def test_a_crash_says_where_it_was(ip: str) -> None:
    with running() as manager:
        manager.start(ip, free_port(ip))
        manager.process.send_signal(signal.SIGSEGV)
        status, log = manager.finish()
        assert status == -signal.SIGSEGV
        assert "Fatal Python error: Segmentation fault" in log
        assert "nodeagent/worker/main.py" in log


def test_it_runs_its_sources_where_that_is_asked_for(ip: str) -> None:
    with running("--interpreted") as manager:
        manager.start(ip, free_port(ip))
        assert "compiled/built" not in Path(f"/proc/{manager.process.pid}/maps").read_text()
        manager.pair.close()
        _, log = manager.finish()
        assert "runs interpreted, which costs more: it was asked for" in log


def test_it_dies_with_its_parent() -> None:
    code = (
        "import socket, subprocess, sys, time\n"
        "a, b = socket.socketpair()\n"
        "p = subprocess.Popen([sys.executable, '-m', 'nodeagent.worker', '--channel-fd', str(b.fileno())],"
        " pass_fds=[a.fileno(), b.fileno()])\n"  # it holds both ends: the channel does not tell
        "print(p.pid, flush=True)\n"
        "from nodeagent import channel\n"
        "a.sendall(channel.pack(channel.Collect(number=1)))\n"
        "a.recv(1)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "up\n"
        watch = _watch(pid)
        parent.send_signal(signal.SIGKILL)
        assert watch(), "the worker outlived its manager"


def _watch(pid: int):
    """Waits for the end of a process that is not our child."""
    import os
    import select

    descriptor = os.pidfd_open(pid)

    def ended() -> bool:
        try:
            return bool(select.select([descriptor], [], [], PATIENCE_SECONDS)[0])
        finally:
            os.close(descriptor)

    return ended


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x04\x80abc",
        channel.pack(channel.EnrolmentUpdate(cgroups={"not a number": "x"})),
        channel.pack(channel.StateBatch(batch=batch(3))),  # a delta before any snapshot
        packed(b'{"type":"StateBatch","batch":{"instance":"i","revision":"two"}}'),
        packed(b'{"type":"Quarantine","narrows":true,"workloads":["x"]}'),
    ],
    ids=["length", "no type", "not json", "cgroup", "order", "a batch that cannot be read", "unknown and narrowing"],
)
def test_what_it_does_not_understand_ends_it(garbage: bytes) -> None:
    with running() as manager:
        manager.pair.sendall(garbage)
        status, log = manager.finish()
        assert status == 70
        assert "the worker stops" in log


def test_what_it_does_not_know_and_what_narrows_nothing_is_ignored_and_counted() -> None:
    """A manager of a newer version may send messages that this worker has never heard of."""
    with running() as manager:
        manager.pair.sendall(packed(b'{"type":"Praise","of":["x"]}') * 2 + packed(b'{"type":"Spread","workers":"all"}'))
        manager.pair.sendall(channel.pack(channel.Ready(pid=1)))
        manager.tell(channel.Collect(number=1))
        counted = {
            sample.labels["message"]: sample.value
            for sample in manager.hear(channel.Collected).samples
            if sample.name == "nodemesh_channel_messages_ignored_total"
        }
        assert counted == {"Praise": 2, "Spread": 1}


def test_a_port_that_is_taken_is_told_plainly(ip: str) -> None:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, 0), family=family) as taken, running() as manager:
        port = taken.getsockname()[1]
        manager.tell(start(ip, port), channel.Begin())
        status, log = manager.finish()
        assert status == 78
        (line,) = log.splitlines()
        assert (
            f"cannot listen on {SocketAddress(ip, port)}: the port is held by " in line
            and f"(process {os.getpid()})" in line
        )


@pytest.mark.parametrize(
    "wrong", [{"access_log": "/nowhere/at/all.log"}, {"pin_dir": "/nowhere/at/all"}, {"log_level": "loud"}]
)
def test_a_start_that_fails_ends_it(wrong: dict[str, str]) -> None:
    with running() as manager:
        manager.tell(start("127.0.0.1", free_port("127.0.0.1"), **wrong))
        status, log = manager.finish()
        assert status == 70
        assert "cannot start" in log


def test_two_share_a_port(ip: str) -> None:
    port = free_port(ip)
    with running() as first, running() as second:
        for manager in (first, second):
            manager.start(ip, port)


def test_an_svid_that_cannot_be_used_is_told_and_harms_nobody(ip: str) -> None:
    with running() as manager:
        manager.start(ip, free_port(ip), channel.Svid(identity=pki.WEB, chain="nonsense", key="nonsense"))
        manager.tell(channel.Drain(seconds=1))
        manager.hear(channel.Drained)
        status, log = manager.finish()
        assert status == 0
        assert f"the SVID of {pki.WEB} cannot be used" in log


def test_a_tunnel_is_carried_and_drained(ip: str, tmp_path: Path) -> None:
    """All of it: snapshot, SVID, a tunnel with a stream, its listing, its drain, and its line in the log."""
    import asyncio

    root = pki.make_root()
    port, log = free_port(ip), tmp_path / "access.log"
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, 0), family=family) as application, running() as manager:
        application.setblocking(False)
        app_port = application.getsockname()[1]
        far = workload("far", "b", app_port, addresses=(ip,))
        leaf = pki.make_svid(root, far.identity)
        bundle = TrustBundle(uid=TRUST_DOMAIN, certificates=(root.pem,))
        manager.start(
            ip, port, channel.StateBatch(batch=batch(1, bundle, far, snapshot=True)),
            channel.Svid(identity=far.identity, chain=leaf.chain_pem, key=leaf.key_pem), access_log=str(log),
        )  # fmt: skip
        manager.hear(channel.BatchApplied)

        async def story() -> None:
            loop = asyncio.get_running_loop()
            peer = Peer(tls_context(pki.make_svid(root, pki.CLIENT), root), far.sni)
            await peer.connect(SocketAddress(ip, port))
            answer = await peer.request(str(SocketAddress(ip, app_port)))
            assert answer.status == "200"
            server, _ = await loop.sock_accept(application)
            manager.tell(channel.ListFlows(number=1), channel.Collect(number=2))
            flows = manager.hear(channel.FlowList)
            (row,) = flows.flows
            assert (row["destination"], row["established"], row["path"]) == (far.uid, True, "tunnel")
            (tunnel,) = flows.tunnels
            assert (tunnel["peer"], tunnel["streams"]) == (pki.CLIENT, 1)
            gauges = {sample.name: sample.value for sample in manager.hear(channel.Collected).samples}
            assert gauges["nodemesh_live_flows"] == 1
            manager.tell(channel.Drain(seconds=60))
            await peer.until(lambda: len(peer.farewells) == 2)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((ip, port))
            answer.stream.send(b"still carried")
            answer.stream.end()
            await peer.flush()
            data = b""
            while piece := await loop.sock_recv(server, 100):
                data += piece
            assert data == b"still carried"
            await loop.sock_sendall(server, b"goodbye")
            server.close()
            with pytest.raises(ssl.SSLZeroReturnError):
                await peer.until(lambda: False)
            assert bytes(answer.received) == b"goodbye"
            assert answer.half_closed
            peer.close()

        asyncio.run(story())
        assert manager.hear(channel.Drained) == channel.Drained(cut=0)
        assert manager.finish()[0] == 0
    (line,) = log.read_text().splitlines()
    assert "reason=ok" in line
    assert "bytes_sent=13" in line
    assert "bytes_recv=7" in line


def test_what_is_open_when_the_drain_time_is_over_is_cut(ip: str, tmp_path: Path) -> None:
    import asyncio

    root = pki.make_root()
    port, log = free_port(ip), tmp_path / "access.log"
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, 0), family=family) as application, running() as manager:
        application.setblocking(False)
        app_port = application.getsockname()[1]
        far = workload("far", "b", app_port, addresses=(ip,))
        leaf = pki.make_svid(root, far.identity)
        bundle = TrustBundle(uid=TRUST_DOMAIN, certificates=(root.pem,))
        manager.start(
            ip, port, channel.StateBatch(batch=batch(1, bundle, far, snapshot=True)),
            channel.Svid(identity=far.identity, chain=leaf.chain_pem, key=leaf.key_pem), access_log=str(log),
        )  # fmt: skip
        manager.hear(channel.BatchApplied)

        async def story() -> None:
            peer = Peer(tls_context(pki.make_svid(root, pki.CLIENT), root), far.sni)
            await peer.connect(SocketAddress(ip, port))
            answer = await peer.request(str(SocketAddress(ip, app_port)))
            server, _ = await asyncio.get_running_loop().sock_accept(application)
            manager.tell(channel.Drain(seconds=0))
            await peer.until(lambda: answer.reset_with is not None)
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(server, 1)
            server.close()
            peer.close()

        asyncio.run(story())
        assert manager.hear(channel.Drained) == channel.Drained(cut=1)
        assert manager.finish()[0] == 0
    (line,) = log.read_text().splitlines()
    assert "reason=agent-shutdown" in line


def test_stopped_at_once_it_ends_its_connections_in_order(ip: str, tmp_path: Path) -> None:
    """Bytes are on their way in both directions: events are due when everything is taken down."""
    import asyncio

    root = pki.make_root()
    port, log = free_port(ip), tmp_path / "access.log"
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    streams = 30
    with socket.create_server((ip, 0), family=family, backlog=streams) as application, running() as manager:
        application.setblocking(False)
        app_port = application.getsockname()[1]
        far = workload("far", "b", app_port, addresses=(ip,))
        leaf = pki.make_svid(root, far.identity)
        bundle = TrustBundle(uid=TRUST_DOMAIN, certificates=(root.pem,))
        manager.start(
            ip, port, channel.StateBatch(batch=batch(1, bundle, far, snapshot=True)),
            channel.Svid(identity=far.identity, chain=leaf.chain_pem, key=leaf.key_pem), access_log=str(log),
        )  # fmt: skip

        async def story() -> None:
            loop = asyncio.get_running_loop()
            peer = Peer(tls_context(pki.make_svid(root, pki.CLIENT), root), far.sni)
            await peer.connect(SocketAddress(ip, port))
            servers = []
            for _ in range(streams):
                answer = await peer.request(str(SocketAddress(ip, app_port)))
                assert answer.status == "200"
                server, _ = await loop.sock_accept(application)
                server.setblocking(False)
                servers.append(server)
                answer.stream.send(b"x" * 1000)
            await peer.flush()
            for server in servers:
                server.send(b"y" * 60_000)
            manager.pair.close()
            status, said = await asyncio.to_thread(manager.finish)
            assert status == 0, said
            assert not any(word in said for word in ("Traceback", "defect", "closed epoll", "Exception")), said
            for server in servers:
                server.close()
            peer.close()

        asyncio.run(story())
    lines = log.read_text().splitlines()
    assert len(lines) == streams and all("reason=agent-shutdown" in line for line in lines)
