"""What a header block costs, in microseconds: `python -m tests.bench.micro_hpack [--interpreted]`.

Ours as a worker runs it (compiled), and the `hpack` library. Each block is written by one sender, read, and written
again for the next hop, as a proxy does it; request identifiers and addresses differ from one to the next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import process_time

import hpack

from nodeagent.compiled.finder import use

BLOCKS = 4000
ROUNDS = 5
Pairs = list[tuple[bytes, bytes]]
FIXED_ID = 0x9E37_79B9_7F4A_7C15


def _number(at: int) -> str:
    return f"{at * FIXED_ID % 2**64:016x}"


def connect(at: int) -> Pairs:
    """A tunnel's request: of three places that it goes to."""
    baggage = b"k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1"
    trace = f"00-{_number(at) * 2}-{_number(at + 1)}-01".encode()
    return [
        (b":method", b"CONNECT"), (b":authority", b"10.0.0.%d:8080" % (at % 3)),
        (b"forwarded", b'for="10.1.0.7:%d";host=orders.shop.mesh.internal' % (20_000 + at % 40_000)),
        (b"baggage", baggage), (b"traceparent", trace),
    ]  # fmt: skip


def answer(_at: int) -> Pairs:
    """A tunnel's answer."""
    return [(b":status", b"200")]


def grpc_request(at: int) -> Pairs:
    """What grpc-go sends, with identifiers of this request."""
    number = _number(at)
    return [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/shop.Orders/Get"),
        (b":authority", b"orders.shop:8080"), (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-go/1.60.1"), (b"te", b"trailers"), (b"grpc-timeout", b"1S"),
        (b"x-request-id", number.encode() * 2), (b"traceparent", f"00-{number * 2}-{number}-01".encode()),
    ]  # fmt: skip


def grpc_response(_at: int) -> Pairs:
    """The head of an answer to it."""
    return [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"gzip")]


def browser(at: int) -> Pairs:
    """Twenty fields, of which the path and a cookie change."""
    return [
        (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"www.shop.example"),
        (b":path", f"/api/v1/users/{at * 7919 % 1_000_003}/orders?cursor={_number(at)}".encode()),
        (b"sec-ch-ua", b'"Chromium";v="128", "Not;A=Brand";v="24"'), (b"sec-ch-ua-mobile", b"?0"),
        (b"sec-ch-ua-platform", b'"Linux"'), (b"upgrade-insecure-requests", b"1"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0"),
        (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
        (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-mode", b"navigate"), (b"sec-fetch-user", b"?1"),
        (b"sec-fetch-dest", b"document"), (b"referer", b"https://www.shop.example/orders"),
        (b"accept-encoding", b"gzip, deflate, br, zstd"), (b"accept-language", b"en-GB,en;q=0.9,de;q=0.8"),
        (b"cookie", b"session=" + _number(at // 50).encode() * 2), (b"cache-control", b"max-age=0"),
        (b"priority", b"u=0, i"),
    ]  # fmt: skip


CASES: dict[str, Callable[[int], Pairs]] = {
    "CONNECT": connect, "its answer": answer, "gRPC request": grpc_request, "gRPC response": grpc_response,
    "browser, 20 fields": browser,
}  # fmt: skip
CHANGING = {b"forwarded", b"traceparent", b"x-request-id"}


def blocks(case: Callable[[int], Pairs], *, indexing: bool) -> list[bytes]:
    """As a foreign sender writes them; without ``indexing``, the plain literals of an older agent."""
    from nodeagent.http2.hpack.encoder import BlockEncoder
    from nodeagent.http2.hpack.field import INDEX, LITERAL, Field

    encoder = BlockEncoder(huffman=indexing)
    return [
        encoder.encode([
            Field(name, value, INDEX if indexing and name not in CHANGING else LITERAL) for name, value in case(at)
        ])
        for at in range(BLOCKS)
    ]  # fmt: skip


def ours(written: list[bytes]) -> tuple[float, float]:
    """Seconds a block, read and written again."""
    from nodeagent.http2.hpack.decoder import BlockDecoder
    from nodeagent.http2.hpack.encoder import BlockEncoder

    decoder, encoder = BlockDecoder(64 * 1024, 100), BlockEncoder()
    began = process_time()
    lists = [decoder.decode(block)[0] for block in written]
    read = process_time()
    for fields in lists:
        encoder.encode(fields)
    return (read - began) / BLOCKS, (process_time() - read) / BLOCKS


def library(written: list[bytes]) -> tuple[float, float]:
    """The same by the `hpack` library."""
    decoder, encoder = hpack.Decoder(), hpack.Encoder()
    began = process_time()
    lists = [decoder.decode(block, raw=True) for block in written]
    read = process_time()
    for fields in lists:
        encoder.encode(fields, huffman=False)
    return (read - began) / BLOCKS, (process_time() - read) / BLOCKS


def main(argv: list[str]) -> None:
    """Print the figures: medians of the rounds, which alternate."""
    if "--interpreted" not in argv:
        problem = use()
        if problem:
            sys.exit(f"{problem}, or --interpreted")
    print(f"{'us a block':>32} {'read':>7} {'write':>7}   library: {'read':>7} {'write':>7}  octets")
    for name, case in CASES.items():
        for indexing in (True, False):
            written = blocks(case, indexing=indexing)
            rounds = [(*ours(written), *library(written)) for _ in range(ROUNDS)]
            figures = [median(column) * 1e6 for column in zip(*rounds, strict=True)]
            label = f"{name}, {'indexed' if indexing else 'literals'}"
            size = sum(map(len, written)) / BLOCKS
            read, write, their_read, their_write = figures
            print(f"{label:>32} {read:7.2f} {write:7.2f}            {their_read:7.2f} {their_write:7.2f} {size:7.0f}")


if __name__ == "__main__":
    main(sys.argv[1:])
