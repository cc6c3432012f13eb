"""TLS between two memory buffers, cut anywhere; its end, its refusals, and noise."""

from __future__ import annotations

import random
import ssl

import pytest

from nodeagent.identity.keys import load_svid
from nodeagent.identity.tlsctx import client_context, server_context
from nodeagent.relay.protocol.tls import TlsClosedError, TlsSession
from tests.support.pki import make_root, make_svid


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    root = make_root()
    leaf = make_svid(root)
    svid = load_svid(leaf.chain_pem, leaf.key_pem)
    return client_context(svid, [root.pem]), server_context(svid, [root.pem])


def joined(contexts: tuple[ssl.SSLContext, ssl.SSLContext], step: int = 2**20) -> tuple[TlsSession, TlsSession]:
    """Both ends after their handshake, whose octets arrived ``step`` at a time."""
    client = TlsSession(contexts[0], server_side=False, server_hostname="web.shop")
    server = TlsSession(contexts[1], server_side=True)
    client.handshake()
    for source, target in ((client, server), (server, client), (client, server)):
        carry(source, target, step)
    assert client.established and server.established
    return client, server


def carry(source: TlsSession, target: TlsSession, step: int = 2**20) -> bytes:
    out = source.take_output()
    got = b""
    for at in range(0, len(out), step):
        target.feed(out[at : at + step])
        got += b"".join(target.pieces())
    return got


@pytest.mark.parametrize("step", [1, 100, 2**20])
def test_plaintext_goes_through_whatever_the_cuts(contexts: tuple[ssl.SSLContext, ssl.SSLContext], step: int) -> None:
    client, server = joined(contexts, step)
    sent = random.Random(1).randbytes(50_000)
    client.send([sent])
    client.send([b"and more"])
    assert carry(client, server, step) == sent + b"and more"
    server.send([b"back"])
    assert carry(server, client, step) == b"back"
    assert client.take_output() == server.take_output() == b""
    assert client.peer_certificate() == server.peer_certificate() != b""


def test_a_piece_holds_every_record_that_is_good_and_comes_before_the_error(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    client, server = joined(contexts)
    client.send([bytes(40_000)])
    broken = bytearray(client.take_output())
    broken[-1] ^= 1
    server.feed(bytes(broken))
    pieces = server.pieces()
    assert len(next(pieces)) == 2 * 16_384
    with pytest.raises(ssl.SSLError):
        next(pieces)


def test_an_orderly_end_is_told_after_the_last_bytes(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = joined(contexts)
    client.send([b"last"])
    client.close()
    server.feed(client.take_output())
    pieces = server.pieces()
    assert next(pieces) == b"last"
    with pytest.raises(TlsClosedError):
        next(pieces)
    server.close()
    client.close()


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_an_ssl_error_or_waits(contexts: tuple[ssl.SSLContext, ssl.SSLContext], seed: int) -> None:
    noise = random.Random(seed).randbytes(200)
    server = TlsSession(contexts[1], server_side=True)
    with pytest.raises(ssl.SSLError):
        for _ in range(200):
            server.feed(noise)
    assert not server.established


def test_more_than_the_buffer_holds_comes_in_several_pieces(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = joined(contexts)
    sent = bytes(range(256)) * 4000
    client.send([sent])
    server.feed(client.take_output())
    pieces = list(server.pieces())
    assert b"".join(pieces) == sent
    assert len(pieces) > 1
