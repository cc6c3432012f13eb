"""TLS between two memory buffers, cut anywhere; its end, its refusals, and noise."""

from __future__ import annotations

import random

import pytest
from OpenSSL import SSL

from nodeagent.identity.keys import load_svid
from nodeagent.identity.openssl import TlsClosedError, TlsError
from nodeagent.identity.tlsctx import client_context, server_context
from nodeagent.tunnel.tls import LARGE_READ, STEP, TlsBuffers, TlsSession
from tests.support.foreign_tls import ForeignTls
from tests.support.peer import tls_context
from tests.support.pki import make_root, make_svid


@pytest.fixture(scope="module")
def contexts() -> tuple[SSL.Context, SSL.Context]:
    root = make_root()
    leaf = make_svid(root)
    svid = load_svid(leaf.chain_pem, leaf.key_pem)
    return client_context(svid, [root.pem]), server_context(svid, [root.pem])


def ours(context: SSL.Context, *, server: bool, buffers: TlsBuffers | None = None) -> TlsSession:
    return TlsSession(SSL.Connection(context, None), server_side=server, buffers=buffers)


def joined(contexts: tuple[SSL.Context, SSL.Context], step: int = 2**20) -> tuple[TlsSession, TlsSession]:
    """Both ends after their handshake, whose octets arrived ``step`` at a time; they share their buffers."""
    buffers = TlsBuffers()
    client = ours(contexts[0], server=False, buffers=buffers)
    server = ours(contexts[1], server=True, buffers=buffers)
    client.handshake()
    for source, target in ((client, server), (server, client), (client, server), (server, client)):
        carry(source, target, step)
    assert client.established and server.established
    return client, server


def sent_by(session: TlsSession, *parts: bytes | memoryview) -> bytes:
    """The ciphertext of these parts."""
    out: list[bytes] = []
    session.send(parts, lambda piece: out.append(bytes(piece)))
    return b"".join(out)


def read_by(session: TlsSession, ciphertext: bytes, step: int = 2**20) -> bytes:
    """The plaintext of it, read from a buffer that is overwritten after each step."""
    buffer, got = bytearray(min(step, max(1, len(ciphertext)))), b""
    for at in range(0, len(ciphertext), step):
        part = ciphertext[at : at + step]
        buffer[: len(part)] = part
        session.feed(memoryview(buffer)[: len(part)])
        for piece in session.pieces():
            got += piece
        buffer[:] = bytes(len(buffer))
    return got


def carry(source: TlsSession, target: TlsSession, step: int = 2**20) -> bytes:
    return read_by(target, source.take_output(), step)


@pytest.mark.parametrize("step", [1, 100, LARGE_READ, 2**20])
def test_plaintext_goes_through_whatever_the_cuts(contexts: tuple[SSL.Context, SSL.Context], step: int) -> None:
    client, server = joined(contexts, step)
    sent = random.Random(1).randbytes(100_000)
    assert read_by(server, sent_by(client, sent), step) == sent
    assert read_by(server, sent_by(client, b"and more"), step) == b"and more"
    assert read_by(client, sent_by(server, b"back"), step) == b"back"
    assert client.take_output() == server.take_output() == b""


def test_large_and_small_reads_take_turns(contexts: tuple[SSL.Context, SSL.Context]) -> None:
    client, server = joined(contexts)
    noise = random.Random(2)
    sent = noise.randbytes(3_000_000)
    ciphertext = sent_by(client, memoryview(sent))
    got, at = b"", 0
    while at < len(ciphertext):
        step = noise.choice((1, 5, 700, LARGE_READ - 1, LARGE_READ, 70_000, 262_144))
        got += read_by(server, ciphertext[at : at + step], step)
        at += step
    assert got == sent


def test_parts_of_every_size_stay_in_order(contexts: tuple[SSL.Context, SSL.Context]) -> None:
    client, server = joined(contexts)
    noise = random.Random(3)
    parts = [noise.randbytes(size) for size in (1, 9, 8191, 8192, 9, STEP - 1, STEP, 9, STEP + 1, 3 * STEP, 5, 20_000)]
    views = [memoryview(part) if number % 2 else part for number, part in enumerate(parts)]
    assert read_by(server, sent_by(client, *views), 262_144) == b"".join(parts)
    client.shrink()
    assert read_by(server, sent_by(client, b"after shrinking")) == b"after shrinking"


def test_an_end_on_another_openssl_understands_us(contexts: tuple[SSL.Context, SSL.Context]) -> None:
    root = make_root()
    leaf = make_svid(root)
    server = ours(server_context(load_svid(leaf.chain_pem, leaf.key_pem), [root.pem]), server=True)
    client = ForeignTls(tls_context(leaf, root))
    client.handshake()
    while not (client.established and server.established):
        server.feed(client.take_output())
        client.feed(server.take_output())
    sent = random.Random(4).randbytes(400_000)
    client.write(sent)
    assert read_by(server, client.take_output(), 262_144) == sent
    client.feed(sent_by(server, sent))
    assert client.read() == sent


def test_a_piece_holds_every_record_that_is_good_and_comes_before_the_error(
    contexts: tuple[SSL.Context, SSL.Context],
) -> None:
    client, server = joined(contexts)
    broken = bytearray(sent_by(client, bytes(40_000)))
    broken[-1] ^= 1
    server.feed(bytes(broken))
    pieces = server.pieces()
    assert len(next(pieces)) == 2 * 16_384
    with pytest.raises(TlsError, match="bad record mac"):
        next(pieces)


def test_an_orderly_end_is_told_after_the_last_bytes(contexts: tuple[SSL.Context, SSL.Context]) -> None:
    client, server = joined(contexts)
    last = sent_by(client, b"last")
    client.close()
    server.feed(last + client.take_output())
    pieces = server.pieces()
    assert next(pieces) == b"last"
    with pytest.raises(TlsClosedError):
        next(pieces)
    server.close()
    client.close()


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_an_ssl_error_or_waits(contexts: tuple[SSL.Context, SSL.Context], seed: int) -> None:
    noise = random.Random(seed).randbytes(200)
    server = ours(contexts[1], server=True)
    with pytest.raises(TlsError):
        for _ in range(200):
            server.feed(noise)
    assert not server.established


def test_more_than_the_buffer_holds_comes_in_several_pieces(contexts: tuple[SSL.Context, SSL.Context]) -> None:
    client, server = joined(contexts)
    sent = bytes(range(256)) * 4000
    server.feed(sent_by(client, sent))
    pieces = [bytes(piece) for piece in server.pieces()]
    assert b"".join(pieces) == sent
    assert len(pieces) > 1
