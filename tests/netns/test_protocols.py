"""Protocols that break proxies which wait for the client, or take a pause or half an end for the end of everything.

A client that has said nothing gets the server's first words: there is nothing that the mesh could have waited for.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.netns.lab import eventually
from tests.netns.programs import running
from tests.netns.servers import read_all, read_exactly
from tests.netns.shop import PORT, TARGET_PORT, Behind, Family, Shop
from tests.netns.spliced import assert_reset, connected
from tests.netns.spot import IO_SECONDS

SPEAKS_FIRST = {
    "SMTP": b"220 mail.shop.example ESMTP ready\r\n",
    # protocol 10, version, connection 1, half of the salt, capabilities, character set, status, the other half, plugin
    "MySQL": b"\x4a\0\0\0\x0a8.0.36\0\x01\0\0\0abcdefgh\0\xff\xf7\x21\x02\0\x0f\xde\x15"
    + bytes(10)
    + b"ijklmnopqrst\0mysql_native_password\0",
    "FTP": b"220 (vsFTPd 3.0.3)\r\n",
    "IMAP": b"* OK [CAPABILITY IMAP4rev1] ready\r\n",
}
FIRST_WORD = b"HELO"


@pytest.mark.parametrize("protocol", SPEAKS_FIRST)
def test_the_server_speaks_and_only_then_the_client(shop: Shop, behind: Behind, family: Family, protocol: str) -> None:
    banner = SPEAKS_FIRST[protocol]
    heard: list[bytes] = []

    def greet(connection: socket.socket) -> None:
        connection.sendall(banner)
        heard.append(read_exactly(connection, len(FIRST_WORD)))

    with behind.serve(greet), shop.dial(behind, family) as connection:
        assert read_exactly(connection, len(banner)) == banner
        assert not heard, "the client has said nothing yet"
        connection.sendall(FIRST_WORD)
        eventually(lambda: heard == [FIRST_WORD], what="the client's word follows")


def test_ssh(shop: Shop, behind: Behind, family: Family, tmp_path: Path) -> None:
    """A real server's banner to a client that says nothing, then a real client's key exchange."""
    key = tmp_path / "key"
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", key], check=True, capture_output=True)
    log = shop.mesh.place.logs / "dropbear.log"
    server = ("dropbear", "-F", "-E", "-s", "-r", key, "-P", tmp_path / "pid", "-p", str(TARGET_PORT))
    with running(behind.spot, TARGET_PORT, log, *server):
        with shop.dial(behind, family) as connection:
            assert read_exactly(connection, 16) == b"SSH-2.0-dropbear"
        client = ("dbclient", "-y", "-y", "-T", "-p", str(PORT), f"nobody@{behind.address(family)}", "true")
        told = shop.client.run(*client).stderr
        assert b"No auth methods could be used" in told, "keys were exchanged; nobody has a key to log in with"


def test_http_1_0(shop: Shop, behind: Behind, family: Family) -> None:
    """The end of the connection is the end of the answer."""
    body = b"as long as it goes on\n" * 20_000

    def answer(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        connection.close()

    host = behind.address(family)
    url = f"http://[{host}]/" if ":" in host else f"http://{host}/"
    with behind.serve(answer):
        got = shop.client.run("curl", "--silent", "--show-error", "--http1.0", "--globoff", url)
    assert (got.returncode, got.stdout) == (0, body), got.stderr


def test_netcat_that_ends_its_input(shop: Shop, behind: Behind, family: Family) -> None:
    """`nc -N`: half an end says that the question is complete, and the answer still comes."""

    def count(connection: socket.socket) -> None:
        received = read_all(connection)
        connection.sendall(b"%d bytes" % len(received))
        connection.close()

    with behind.serve(count):
        told = shop.client.run("nc.openbsd", "-N", behind.address(family), str(PORT), stdin=b"x" * 300_000)
    assert told.stdout == b"300000 bytes", told.stderr


def test_an_end_that_arrives_before_anything_was_read(shop: Shop, behind: Behind, family: Family) -> None:
    """The client said all, ended and is gone; then only does the server begin to read."""
    gone = threading.Event()
    received: list[bytes] = []

    def later(connection: socket.socket) -> None:
        assert gone.wait(IO_SECONDS)
        received.append(read_all(connection))

    with behind.serve(later):
        with shop.dial(behind, family) as connection:
            connection.sendall(b"z" * 200_000)
        gone.set()
        eventually(lambda: received, what="the server reads to the end")
    assert received == [b"z" * 200_000]


def test_a_server_that_leaves_while_the_client_still_writes(shop: Shop, behind: Behind, family: Family) -> None:
    """It answers without reading the question and closes: the client's writing fails, as without a mesh; no hang."""

    def leave(connection: socket.socket) -> None:
        connection.recv(1)
        connection.close()

    with behind.serve(leave), shop.dial(behind, family) as connection, pytest.raises(ConnectionError):
        while True:
            connection.sendall(bytes(65536))


def test_a_server_that_ends_while_the_client_still_writes(shop: Shop, behind: Behind, family: Family) -> None:
    """Its answer is complete before the question is; both arrive whole."""
    received: list[bytes] = []
    half = b"h" * 2_000_000

    def answer_early(connection: socket.socket) -> None:
        first = read_exactly(connection, len(half))
        connection.sendall(b"enough, thank you")
        connection.shutdown(socket.SHUT_WR)
        received.append(first + read_all(connection))

    with behind.serve(answer_early), shop.dial(behind, family) as connection:
        connection.sendall(half)
        assert read_all(connection) == b"enough, thank you"
        connection.sendall(half)
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: received, what="the server reads to the end")
    assert received == [half + half]


def test_a_connection_that_is_idle_for_long(shop: Shop, behind: Behind, family: Family) -> None:
    """By default nothing ends it: sweeps that cut others at a second leave it alone, time after time."""
    with connected(shop, behind, family, 1, seconds=IO_SECONDS) as (kept,):
        kept.exchange()
        with shop.labelled(shop.server if behind is shop.local else shop.local, idle_timeout="1s"):
            for _ in range(2):
                other = shop.server if behind is shop.local else shop.local
                with connected(shop, other, family, 1, seconds=30) as (cut,):
                    cut.exchange()
                    assert_reset(cut.client, 30)
        kept.exchange()
        assert roundtrip_of(kept.client, kept.server)


def roundtrip_of(client: socket.socket, server: socket.socket) -> bool:
    """It still ends in order."""
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.close()
    return client.recv(1) == b""
