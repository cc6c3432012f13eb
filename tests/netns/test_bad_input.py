"""What must never crash, hang or leak: whatever arrives at the agent's ports that no peer should send.

After each story the agent has as many descriptors as before, no process of it died, and it still carries traffic.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.netns.lab import eventually, identity
from tests.netns.resources import from_principal, policy
from tests.netns.servers import echo
from tests.netns.shop import TARGET_PORT, Family, Shop
from tests.netns.test_policy import admitted
from tests.netns.tunnel import Tunnel, refused, server_certificate, spiffe_ids, stolen_authority, tls
from tests.support import pki

OUTBOUND, TUNNEL = 15001, 15008
SNI = "server.shop.workload.mesh.internal"
SEED = 20


@pytest.fixture
def address(shop: Shop, family: Family) -> str:
    """The second node's address."""
    return family.form(shop.mesh.b.v4, shop.mesh.b.v6)


@pytest.fixture(scope="module")
def authority(shop: Shop) -> pki.Authority:
    """The mesh's own."""
    return stolen_authority(shop.mesh)


@pytest.fixture(scope="module")
def good(authority: pki.Authority) -> pki.Leaf:
    """The client's identity."""
    return pki.make_svid(authority, identity("client"))


@pytest.fixture(autouse=True)
def unharmed(shop: Shop) -> Iterator[None]:
    """Before and after: the same processes, the same number of descriptors, and traffic passes."""
    nodes = shop.mesh.nodes
    with shop.server.serve(echo):
        # every pair of workers has its tunnel by now: what is opened later and stays is a leak
        assert all(admitted(shop, shop.server, shop.client) for _ in range(20))
    before = [node.descriptors() for node in nodes]
    processes = [node.agent_processes() for node in nodes]
    yield
    assert [node.agent_processes() for node in nodes] == processes, "a process of an agent died"
    with shop.server.serve(echo):
        assert admitted(shop, shop.server, shop.client)

    def settled() -> bool:
        return all(node.descriptors() <= count for node, count in zip(nodes, before, strict=True))

    eventually(settled, what=f"descriptors: {before} before, {[node.descriptors() for node in nodes]} after")


def _says(shop: Shop, *reasons: str) -> None:
    """The second node's access log or log tells why."""

    def told() -> bool:
        return any(shop.mesh.b.access(reason=reason) for reason in reasons)

    eventually(told, what=f"an access-log line with one of {reasons}")


# --- connections that say nothing, or nonsense ---


@pytest.mark.parametrize("port", [OUTBOUND, TUNNEL])
def test_a_port_scan(shop: Shop, address: str, port: int) -> None:
    """Connect and leave, in order and by reset, many times."""
    for number in range(200):
        try:
            connection = shop.mesh.a.outside.connect(address, port)
        except ConnectionRefusedError:
            assert port == OUTBOUND, "the tunnel port listens"
            return  # the capture port listens on loopback only: better still
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()


@pytest.mark.parametrize("local", ["127.0.0.1", "::1"])
def test_somebody_connects_to_the_capture_port(shop: Shop, local: str) -> None:
    """On the node itself: not captured, so there is no destination to carry it to."""
    for spot in (shop.mesh.b.outside, shop.remote):
        # the reset may be there before connect() has returned
        with contextlib.suppress(ConnectionError), spot.connect(local, OUTBOUND) as connection:
            connection.settimeout(3)
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.recv(100) == b"", "nobody answers"
    _says(shop, "not-captured")


@pytest.mark.parametrize("length", [0, 1, 5, 300])
def test_bytes_that_are_not_tls(shop: Shop, address: str, length: int) -> None:
    data = random.Random(SEED).randbytes(length)
    with shop.mesh.a.outside.connect(address, TUNNEL) as connection:
        if data:
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


def test_a_client_that_never_says_hello_is_sent_away(shop: Shop) -> None:
    """A connection without handshake must not be kept for ever."""
    addresses = [family.form(shop.mesh.b.v4, shop.mesh.b.v6) for family in Family]
    connections = [shop.mesh.a.outside.connect(address, TUNNEL) for address in addresses]
    for connection in connections:
        with connection, contextlib.suppress(ConnectionError):
            connection.settimeout(40)
            assert connection.recv(1) == b""


# --- TLS and certificates ---


def test_the_right_peer_is_served(shop: Shop, address: str, good: pki.Leaf) -> None:
    """The stories below prove something only because this works."""
    with shop.server.serve(echo), Tunnel(shop.mesh.a.outside, address, good, sni=SNI) as tunnel:
        assert tunnel.connect(f"{_authority(shop)}:{TARGET_PORT}") == 200
        tunnel.send(b"through a foreign implementation")
        assert tunnel.receive() == b"through a foreign implementation"


def test_no_certificate(shop: Shop, address: str) -> None:
    with tls(shop.mesh.a.outside, address, sni=SNI) as connection:
        refused(connection)
    _says(shop, "tls-failure")


def test_tls_1_2(shop: Shop, address: str, good: pki.Leaf) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with shop.mesh.a.outside.connect(address, TUNNEL) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname=SNI)


def test_another_protocol_than_h2(shop: Shop, address: str, good: pki.Leaf) -> None:
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        tls(shop.mesh.a.outside, address, good, sni=SNI, alpn="http/1.1") as connection,
    ):
        refused(connection)


@pytest.mark.parametrize("what", sorted(pki.BAD_SVIDS))
def test_a_certificate_that_chains_but_is_no_svid(shop: Shop, authority: pki.Authority, what: str) -> None:
    leaf = pki.BAD_SVIDS[what](authority)
    with shop.server.serve(echo) as server:
        with (
            contextlib.suppress(
                ssl.SSLError,
                ConnectionError,
            ),
            Tunnel(shop.mesh.a.outside, shop.mesh.b.v4, leaf, sni=SNI) as tunnel,
        ):
            status = tunnel.connect(f"{_authority(shop)}:{TARGET_PORT}")
            assert status in (400, 401), f"{what}: served with {status}"
        assert not server.connections, f"{what}: reached the server"
    _says(shop, "tls-failure", "identity-mismatch", "policy-denied")


def test_a_foreign_root(shop: Shop, address: str) -> None:
    """The right name, signed by somebody else."""
    stranger = pki.make_svid(pki.make_intermediate(pki.make_root()), identity("client"))
    with tls(shop.mesh.a.outside, address, stranger, sni=SNI) as connection:
        refused(connection)
    _says(shop, "tls-failure")


def test_the_certificate_shown_is_that_of_the_workload_asked_for(shop: Shop, address: str) -> None:
    for name, account in (("server", "server"), ("remote", "remote")):
        shown = server_certificate(shop.mesh.a.outside, address, f"{name}.shop.workload.mesh.internal")
        assert spiffe_ids(shown) == [identity(account)]


def test_a_name_of_nobody_here(shop: Shop, address: str) -> None:
    for name in ("client.shop.workload.mesh.internal", "nobody.example"):
        with pytest.raises((ssl.SSLError, ConnectionError)), tls(shop.mesh.a.outside, address, sni=name) as connection:
            shown = connection.getpeercert(binary_form=True)
            assert shown is None, "a certificate for a workload that is not here"


# --- HTTP/2 and CONNECT ---


def _authority(shop: Shop) -> str:
    return shop.mesh.b.v4


@pytest.mark.parametrize(
    "target",
    [
        "192.0.2.1:80", "[2001:db8::1]:80", "127.0.0.1:22", "10.77.0.1:8080", "10.77.0.2:9", "10.77.0.2:15001",
        "10.77.0.2:15006", "10.77.0.2:15008", "10.77.0.2:15000", "10.77.0.2:0", "10.77.0.2:99999", "10.77.0.2", ":8080",
        "nobody.shop.svc:80", "[::ffff:10.77.0.2]:15008", "10.77.0.2:8080:8080", "", " ", "é:80",
    ],
)  # fmt: skip
def test_a_target_that_is_not_served(shop: Shop, good: pki.Leaf, target: str) -> None:
    with Tunnel(shop.mesh.a.outside, shop.mesh.b.v4, good, sni=SNI) as tunnel:
        try:
            assert tunnel.connect(target) == 400
        except ConnectionResetError:
            assert target in ("", " ", "é:80"), "a well-formed authority deserves a status"


def test_policy_decides_by_the_certificate_not_by_what_is_claimed(shop: Shop, address: str, good: pki.Leaf) -> None:
    deny = policy("deny-client", "DENY", app="server", rules=[from_principal("client")])
    with shop.server.serve(echo), shop.mesh.applied(deny):
        eventually(lambda: not admitted(shop, shop.server, shop.client))
        with Tunnel(shop.mesh.a.outside, address, good, sni=SNI) as tunnel:
            status = tunnel.connect(
                f"{_authority(shop)}:{TARGET_PORT}",
                forwarded='for="10.77.0.2:1";host=other.shop',
                baggage="k8s.namespace.name=shop,service.name=other",
            )
            assert status == 401


@pytest.mark.parametrize(("claim", "believed"), [("10.77.0.1", True), ("10.77.0.2", False), ("192.0.2.66", False)])
def test_a_server_is_shown_an_address_that_the_peer_may_have_and_no_other(
    shop: Shop, good: pki.Leaf, claim: str, believed: bool
) -> None:
    since = shop.mesh.b.access_position()
    with (
        shop.server.spot.listen(TARGET_PORT) as listener,
        Tunnel(shop.mesh.a.outside, shop.mesh.b.v4, good, sni=SNI) as tunnel,
    ):
        claims = {"forwarded": f'for="{claim}:4711"', "baggage": "k8s.namespace.name=shop,k8s.pod.name=client"}
        assert tunnel.connect(f"{shop.mesh.b.v4}:{TARGET_PORT}", **claims) == 200
        connection, shown = listener.accept()
        with connection:
            assert shown[:2] == ((f"::ffff:{claim}", 4711) if believed else (f"::ffff:{shop.mesh.a.v4}", tunnel.port))
    logged = "-" if believed else f"{claim}:4711"
    eventually(lambda: shop.mesh.b.access(since=since, dst_workload="server", src_claimed=logged))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x00\x00\x08\x01\x04\x00\x00\x00\x01" + b"\xff" * 4, id="truncated headers"),
        pytest.param(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 70000, id="16 MiB data frame"),
        pytest.param(b"\x00\x00\x04\x01\x04\x00\x00\x00\x03\xff\xff\xff\xff", id="headers that are no HPACK"),
        pytest.param(b"\x00\x00\x01\x00\x00\x00\x00\x00\x63x", id="data on a stream that was never opened"),
        pytest.param(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00", id="data on stream 0"),
        pytest.param(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00hello", id="settings of a wrong size"),
        pytest.param(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", id="window update of 0"),
        pytest.param(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff" * 2, id="window over its maximum"),
        pytest.param(b"\x00\x00\x03", id="a third of a frame header"),
        pytest.param(b"\x00\x00\x00\xee\x00\x00\x00\x00\x00" * 1000, id="unknown frames"),
        pytest.param(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping" * 2000, id="a flood of pings"),
        pytest.param(random.Random(SEED).randbytes(64), id="noise"),
    ],
)
def test_frames_that_no_peer_sends(shop: Shop, good: pki.Leaf, frame: bytes) -> None:
    """The tunnel that sent them may be closed; its neighbours are not touched."""
    with shop.server.serve(echo), Tunnel(shop.mesh.a.outside, shop.mesh.b.v4, good, sni=SNI) as tunnel:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            tunnel.raw(frame)
        assert admitted(shop, shop.server, shop.client)


def test_random_bytes_inside_of_tls(shop: Shop, good: pki.Leaf) -> None:
    noise = random.Random(SEED)
    for _ in range(20):
        with (
            tls(shop.mesh.a.outside, shop.mesh.b.v4, good, sni=SNI) as connection,
            contextlib.suppress(ConnectionError, ssl.SSLError),
        ):
            connection.sendall(noise.randbytes(noise.randrange(1, 5000)))
            connection.settimeout(5)
            while connection.recv(65536):
                pass
