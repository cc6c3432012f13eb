"""``nodeagent trace`` on the running kernel. Where BCC can work it traces real connections; where BCC or the kernel's
headers are missing (most machines) it must say so and do nothing. MESH_REQUIRE_TRACE=1 wants the former.
"""

from __future__ import annotations

import json
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from control.wire.address import SocketAddress
from nodeagent.trace.obstacles import CannotTraceError, ExitStatus, ready_python
from tests.kernel.conftest import CAPTURE_PORT, CLIENT_SECONDS, FAMILIES, Family, Node, connect, finish

NODEAGENT = [sys.executable, "-m", "nodeagent", "trace"]
START_SECONDS = 600.0
EVENT_SECONDS = 30.0
LAST_SHOWN = 30


def obstacle() -> CannotTraceError | None:
    """Why this machine cannot trace."""
    try:
        ready_python(os.geteuid(), platform.release(), os.environ)
    except CannotTraceError as error:
        return error
    return None


WHY_NOT = obstacle()
REAL = os.environ.get("MESH_REQUIRE_TRACE") == "1" or WHY_NOT is None


class Running:
    """The verb at work."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.seen: list[dict[str, Any]] = []
        self._place = 0
        self._rest = b""

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next event in which these keys have these values (of a set: one of them)."""
        deadline = time.monotonic() + EVENT_SECONDS
        while True:
            while self._place < len(self.seen):
                event = self.seen[self._place]
                self._place += 1
                if all(_is(event.get(key), value) for key, value in wanted.items()):
                    return event
            assert time.monotonic() < deadline, "\n".join(map(str, self.seen[-LAST_SHOWN:])) + f"\nno {wanted}"
            self._read(deadline - time.monotonic())

    def _read(self, seconds: float) -> None:
        assert self.child.stdout is not None
        if select.select([self.child.stdout], [], [], max(seconds, 0))[0]:
            chunk = os.read(self.child.stdout.fileno(), 65536)
            assert chunk, "\n".join(map(str, self.seen[-LAST_SHOWN:])) + "\nthe trace has ended"
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self.seen += [json.loads(line) for line in lines]


def _is(found: Any, wanted: Any) -> bool:
    return found in wanted if isinstance(wanted, set) else found == wanted


@contextmanager
def tracing(node: Node, *options: str) -> Iterator[Running]:
    """`nodeagent trace -o json` with the lab's pins; it is attached when the block begins."""
    env = {
        **os.environ, "NODEMESH_NODE": "a", "NODEMESH_BPFFS": str(node.lab.bpffs), "NODEMESH_INSTANCE": "test",
        "NODEMESH_PORTS_OUTBOUND": str(CAPTURE_PORT), "NODEMESH_PORTS_ADMIN": "1",
    }  # fmt: skip
    child = subprocess.Popen(
        [*NODEAGENT, "-o", "json", *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stderr is not None
    try:
        said = b""
        deadline = time.monotonic() + START_SECONDS
        while b"tracing; " not in said:
            assert select.select([child.stderr], [], [], max(deadline - time.monotonic(), 0))[0], said
            chunk = os.read(child.stderr.fileno(), 65536)
            assert chunk, said.decode()
            said += chunk
        yield Running(child)
    finally:
        child.kill()
        child.communicate()


def echo(family: Family, ip: str, port: int, size: int) -> None:
    """In a client: send so many bytes and the end, read the answer to its end."""
    with socket.socket(family.af) as client:
        client.settimeout(CLIENT_SECONDS)
        client.connect((family.address(ip), port))
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


def answer(accepted: socket.socket, answer: bytes) -> None:
    accepted.settimeout(CLIENT_SECONDS)
    while accepted.recv(65536):
        pass
    accepted.sendall(answer)
    accepted.close()


class TestTraced:
    """Real events of real connections. Few tests: BCC compiles for each, for minutes on an emulated processor."""

    __test__ = REAL

    @pytest.mark.timeout(2 * START_SECONDS)
    def test_connections_are_seen_from_connect_to_destroy(self, node: Node) -> None:
        node.mesh(*((family.virtual, 80) for family in FAMILIES))
        with tracing(node) as trace:
            for family in FAMILIES:
                an_exchange(node, family, trace)
                a_reset(node, family, trace)
                a_failure(node, family, trace)
            node.capture.set_listeners(CAPTURE_PORT)  # of the tests' own namespace: the lab's record is replaced
            for family in FAMILIES:
                a_refusal(node, family, trace)

    @pytest.mark.timeout(2 * START_SECONDS)
    def test_only_what_was_asked_for_is_shown_and_only_so_much(self, node: Node) -> None:
        node.mesh(*((family.virtual, port) for family in FAMILIES for port in (80, 81)))
        with tracing(node, "--port", "81", "--count", "9") as trace:
            for family in FAMILIES:
                for port in (80, 81):
                    node.lab.client(node.app, lambda family=family, port=port: connect(family, family.virtual, port))
                    node.accept(family)[0].close()
                trace.until(event="accept", original_destination=text(family.virtual, 81))
            assert trace.child.wait(EVENT_SECONDS) == 0
        assert len(trace.seen) <= 9
        assert {event["original_destination"].rpartition(":")[2] for event in trace.seen} == {"81"}


def an_exchange(node: Node, family: Family, trace: Running) -> None:
    cgroup, asked = node.app.stat().st_ino, text(family.virtual, 80)
    client = node.lab.start(node.app, lambda: echo(family, family.virtual, 80, 1000))
    accepted, source = node.accept(family)
    captured = trace.until(event="captured", original_destination=asked)
    assert (captured["cgroup_id"], captured["side"], captured["pid"]) == (cgroup, "client", client[0])
    assert captured["destination"] == text(family.loopback, CAPTURE_PORT)
    arrived = trace.until(event="accept", side="server", original_destination=asked)
    assert (arrived["client_cgroup_id"], arrived["for_pid"]) == (cgroup, client[0])
    assert arrived["source"] == str(source)
    record = node.flows.take(source, accepted)
    assert record is not None and record.destination.port == 80, "the trace leaves the record to the agent"
    answer(accepted, bytes(10))
    finish(client)
    ends = {end["side"]: end for end in (trace.until(event="destroy"), trace.until(event="destroy"))}
    assert (ends["client"]["bytes_sent"], ends["client"]["bytes_received"]) == (1000, 10)
    assert (ends["server"]["bytes_sent"], ends["server"]["bytes_received"]) == (10, 1000)
    assert ends["client"]["original_destination"] == ends["server"]["original_destination"] == asked
    assert ends["client"]["socket"] == captured["socket"]
    assert ends["client"]["seconds"] > 0


def a_reset(node: Node, family: Family, trace: Running) -> None:
    client = node.lab.start(node.app, lambda: echo(family, family.virtual, 80, 1))
    accepted, _ = node.accept(family)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        finish(client)
    resets = [trace.until(event={"reset-sent", "reset-received"}) for _ in range(2)]
    seen = {event["event"]: event["side"] for event in resets}  # on loopback it arrives before its sending is done
    assert seen == {"reset-sent": "server", "reset-received": "client"}


def a_failure(node: Node, family: Family, trace: Running) -> None:
    with pytest.raises(ConnectionRefusedError):
        node.lab.client(node.plain, lambda: connect(family, family.local, 9))
    trace.until(event="connect", side="client", destination=text(family.local, 9))
    trace.until(event="reset-received", state="syn-sent")
    assert trace.until(event="connect-failed")["error"] == "ECONNREFUSED"


def a_refusal(node: Node, family: Family, trace: Running) -> None:
    with pytest.raises(PermissionError):
        node.lab.client(node.app, lambda: connect(family, family.virtual, 80))
    refused = trace.until(event="refused", destination=text(family.virtual, 80))
    assert (refused["error"], refused["cgroup_id"]) == ("EPERM", node.app.stat().st_ino)


def text(ip: str, port: int) -> str:
    return str(SocketAddress(ip, port))


class TestRefused:
    """Nothing is traced, and the operator knows why."""

    __test__ = not REAL

    def test_what_is_missing_is_said(self) -> None:
        done = subprocess.run(
            [*NODEAGENT, "--seconds", "5"], env={**os.environ, "NODEMESH_NODE": "a"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert WHY_NOT is not None
        assert (done.returncode, done.stdout) == (WHY_NOT.status, "")
        assert "Traceback" not in done.stderr
        told = {
            ExitStatus.NO_BCC: "install python3-bpfcc (Debian",
            ExitStatus.NO_HEADERS: f"install linux-headers-{platform.release()} (Debian",
            ExitStatus.NO_TRACEFS: "mount -t tracefs",
        }
        assert told[WHY_NOT.status] in done.stderr
