"""Any octets as header blocks: fields or PeerError, the table in step with a second reading, and memory that the bounds
allow.

python tests/fuzz/fuzz_hpack.py --runs 10000 --seed 7
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import hpack  # noqa: E402
from hpack.exceptions import HPACKError  # noqa: E402

from nodeagent.http2.errors import ErrorCode, PeerError  # noqa: E402
from nodeagent.http2.hpack.decoder import BlockDecoder  # noqa: E402
from nodeagent.http2.hpack.encoder import BlockEncoder  # noqa: E402
from nodeagent.http2.hpack.field import NEVER, Field  # noqa: E402
from tests.fuzz.mutate import run  # noqa: E402

MAX_BLOCK = 16 * 1024
MAX_LIST = 16 * 1024
MAX_FIELDS = 100
TABLE = 4096
DIFFERENCES = ("too long", "after a field")
"""What the library accepts and RFC 7541 does not: see `tests/property/test_hpack.py`."""


def _corpus() -> list[bytes]:
    """Blocks of one sender, one after the other, and bombs."""
    blocks = []
    for coded in (False, True):
        writer = BlockEncoder(huffman=coded)
        for turn in range(6):
            if turn == 4:
                writer.resize(120)
            blocks.append(
                writer.encode(
                    [
                        Field(b":method", b"POST"),
                        Field(b":path", b"/shop.Orders/Get"),
                        Field(b":authority", b"orders:8080"),
                        Field(b"te", b"trailers"),
                        Field(b"x-turn", b"%d" % turn),
                        Field(b"authorization", b"Bearer " + b"a1" * 40),
                        Field(b"cookie", b"session=" + b"0f" * (20 + turn)),
                        Field(b"user-agent", b"fuzz/1", NEVER),
                    ]
                )
            )
    large = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000
    return [
        *blocks,
        large + b"\xbe" * 10_000,
        b"\x40\x00\x00" * 4000,
        b"\x82" * MAX_BLOCK,
        b"\x20\x3f\xe1\x1f" * 3000,
        b"\x00\x01a\xff\xb9\x76" + b"\x18" * 15_000,
        b"\x7f" + b"\xff" * 1000,
    ]


CORPUS = _corpus()


def target(rng: random.Random, data: bytes) -> bool:
    """A few blocks on one connection, the last of them hostile; whether it was read."""
    ours, theirs = BlockDecoder(MAX_LIST, MAX_FIELDS), hpack.Decoder(max_header_list_size=1 << 30)
    theirs.max_allowed_table_size = TABLE
    writer = BlockEncoder()
    for block in (CORPUS[0], CORPUS[1], data[:MAX_BLOCK], CORPUS[0]):
        try:
            fields, excess = ours.decode(block)
        except PeerError as error:
            assert error.code is ErrorCode.COMPRESSION_ERROR and str(error).isprintable()
            if len(block) < 1000 and not any(known in str(error) for known in DIFFERENCES):
                assert not _read(theirs, block), f"the library reads it, we say {error}"
            return False
        _check(ours, fields)
        if len(block) < 1000:  # the library would unfold a bomb
            assert _read(theirs, block) == b"x" + _flat(fields) or excess
            assert _entries(ours) == list(theirs.header_table.dynamic_entries)
        forwarded = BlockEncoder(huffman=rng.random() < 0.5).encode(fields)
        again, _ = BlockDecoder(2 * MAX_LIST, MAX_FIELDS).decode(forwarded)
        assert again == fields
        writer.encode(fields)
        assert writer._table.size <= TABLE and len(writer._numbers) <= TABLE // 32
        if len(block) >= 1000:
            return True
    return True


def _check(ours: BlockDecoder, fields: list[Field]) -> None:
    assert len(fields) <= MAX_FIELDS and sum(field.size for field in fields) <= MAX_LIST
    assert ours._table.size <= TABLE and len(ours._table._entries) <= 64 + TABLE // 32
    assert sum(field.size for field in fields) == sum(len(field.name) + len(field.value) + 32 for field in fields)


def _flat(fields: list[Field]) -> bytes:
    return b"".join(field.name + b"\0" + field.value + b"\0" for field in fields)


def _read(theirs: hpack.Decoder, block: bytes) -> bytes:
    """What the library reads, after an octet that says that it does."""
    try:
        read = theirs.decode(block, raw=True)
    except HPACKError:
        return b""
    return b"x" + b"".join(name + b"\0" + value + b"\0" for name, value in read)


def _entries(ours: BlockDecoder) -> list[tuple[bytes, bytes]]:
    entries, age = [], 0
    while (entry := ours._table.get(age)) is not None:
        entries.append((entry.name, entry.value))
        age += 1
    return entries


def test_hpack_holds_its_invariant() -> None:
    assert run(target, CORPUS, ["--runs", "800", "--seed", "1"]) == 0


if __name__ == "__main__":
    sys.exit(run(target, CORPUS, sys.argv[1:]))
