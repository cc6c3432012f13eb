"""What one host or guest cannot do to others: whoever uses up a share is refused and named, and neighbours go on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import reading
from tests.netns.lab import Node, eventually
from tests.netns.servers import echo
from tests.netns.shop import Family, Shop
from tests.netns.spot import Spot
from tests.netns.test_policy import admitted

HOLDER = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(7)[1],) * 2)
address, port, count, says = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
held = []
while len(held) < count:
    held.append(socket.create_connection((address, port), timeout=10))
    with __import__("contextlib").suppress(OSError):
        held[-1].sendall(says)
print("held", len(held), flush=True)
time.sleep(600)
"""
TUNNEL, ADMIN, METRICS, READY = 15008, 15000, 15020, 15021
ADMIN_PAGES = {ADMIN: "/debug/status", METRICS: "/metrics", READY: "/ready"}


@contextlib.contextmanager
def held(spot: Spot, address: str, port: int, count: int, log: Path, says: bytes = b"") -> Iterator[None]:
    """So many connections are made, and kept as far as the other end lets them."""
    log.unlink(missing_ok=True)
    process = spot.spawn(sys.executable, "-c", HOLDER, address, str(port), str(count), says.hex(), log=log)
    try:
        eventually(lambda: log.exists() and f"held {count}" in log.read_text(), within=60, what="all are made")
        yield
    finally:
        process.kill()
        process.wait()


def refusals(node: Node, limit: str) -> dict[str, float]:
    """Who was refused because of a limit, and how often."""
    return {
        sample.labels["owner"]: sample.value
        for sample in node.metrics()
        if sample.name == "nodemesh_limit_refusals_total" and sample.labels["limit"] == limit
    }


def resident(node: Node) -> int:
    """KiB of all processes of the agent."""
    lines = [Path(f"/proc/{pid}/status").read_text() for pid in node.agent_processes()]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in lines)


def test_silent_connections_to_the_tunnel_port_are_in_nobodys_way(shop: Shop, family: Family) -> None:
    """From another host, without a certificate: new tunnels, memory, and who is named."""
    a, b = shop.mesh.a, shop.mesh.b
    address, before, limit = family.form(b.v4, b.v6), resident(b), 512
    with held(a.outside, address, TUNNEL, 3000, shop.mesh.place.logs / "hold-tunnel.log"):
        with shop.server.serve(echo):
            assert all(admitted(shop, shop.server, shop.client) for _ in range(5))
        grown = resident(b) - before
        eventually(lambda: sum(refusals(b, "unproved_per_peer").values()) >= 3000 - 2 * limit)
        unproved = sum(s.value for s in b.metrics() if s.name == "nodemesh_unproved_connections")
        assert unproved <= 2 * limit
    assert grown < 64 * 1024, f"{grown} KiB for what is silent"
    owner = family.form(a.v4, a.v6)
    assert any(owner.split("::")[0] in who for who in refusals(b, "unproved_per_peer"))
    assert any(row["limit"] == "unproved_per_peer" for row in b.nodeagent("status", "-o", "json")["limits"])


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\nX: "], ids=["silent", "half-a-request"])
@pytest.mark.parametrize("port", ADMIN_PAGES)
def test_idle_connections_to_an_admin_port_are_in_nobodys_way(shop: Shop, port: int, says: bytes) -> None:
    """From another host where the port is open to it; from a workload of the node where it is not."""
    b, logs = shop.mesh.b, shop.mesh.place.logs
    spot, address = (shop.remote, "127.0.0.1") if port == ADMIN else (shop.mesh.a.outside, b.v4)
    with held(spot, address, port, 300, logs / f"hold-{port}.log", says):
        for each, path in ADMIN_PAGES.items():
            status, _ = reading.get(b.outside, each, path)
            assert status == 200, f"{path} while {port} is held"
        if port != ADMIN:
            assert reading.get(shop.mesh.a.outside, port, ADMIN_PAGES[port], address=b.v4)[0] == 200
        assert sum(refusals(b, "admin_connections_per_peer").values()) >= 300 - 64
        assert b.nodeagent("status", "-o", "json")["ready"]


def test_refused_connections_do_not_fill_the_log(shop: Shop) -> None:
    """Somebody connects to the port for captured connections, again and again: ten lines a second, then a sum."""
    b = shop.mesh.b
    position, errors = b.access_position(), _not_captured(b)
    began = time.monotonic()
    for _ in range(500):
        with contextlib.suppress(OSError):
            b.outside.connect("127.0.0.1", 15001).close()
    eventually(lambda: _not_captured(b) >= errors + 500, what="every connection is counted")
    eventually(lambda: _written(b, position)[1] >= 1, what="the sum is written")

    def complete() -> bool:
        lines, summed = _written(b, position)
        return lines + summed >= 500

    eventually(complete, what="each is a line or in a sum")
    lines, _ = _written(b, position)
    seconds = int(time.monotonic() - began) + 2
    assert lines <= 10 * seconds * 2, "ten in a second, by each of two workers"


def _not_captured(node: Node) -> float:
    return sum(
        s.value for s in node.metrics() if s.name == "nodemesh_errors_total" and s.labels["reason"] == "not-captured"
    )


def _written(node: Node, position: int) -> tuple[int, int]:
    """Lines about refused captures since then, and how many the sums stand for."""
    lines = node.access(since=position, reason="not-captured")
    sums = [line for line in node.access(since=position) if "not-captured" in line.get("reasons", "")]
    return len(lines), sum(int(line["suppressed"]) for line in sums)
