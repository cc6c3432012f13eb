"""HPACK of ours against the `hpack` library: what one end writes the other reads, over sequences of blocks whose
tables change their sizes; and any octets at all.

Where the two differ on octets, RFC 7541 decides:

- 5.1, "integer encodings that exceed implementation limits [...] MUST be treated as decoding errors": ours is five
  octets after the prefix, the library's is larger.
- 6.3, "this new maximum size MUST be lower than or equal to the limit": both. 4.2, "MUST occur at the beginning of the
  first header block following the change": the library accepts a new size later in its block too.
- 5.2, "padding strictly longer than 7 bits MUST be treated as a decoding error": both.
- 6.3: the library writes every size that it was given since its last block, the superseded ones too, and refuses to
  read them itself; so do we.
- A header list over a bound is an error of the library; ours goes on to the end of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import hpack
import pytest
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.hpack import huffman
from nodeagent.http2.hpack.decoder import BlockDecoder
from nodeagent.http2.hpack.encoder import BlockEncoder
from nodeagent.http2.hpack.field import INDEX, LITERAL, NEVER, OVERHEAD, Field
from nodeagent.http2.hpack.static import STATIC

MAX_LIST = 16 * 1024
MAX_FIELDS = 100
NAMES = st.one_of(
    st.sampled_from([b":method", b":path", b":status", b"cookie", b"authorization", b"x-request-id", b"a", b"etag"]),
    st.binary(max_size=20),
)
VALUES = st.one_of(
    st.sampled_from([b"GET", b"200", b"/", b"", b"gzip, deflate"]),
    st.binary(max_size=60),
    st.binary(min_size=120, max_size=300),
)
FIELDS = st.builds(Field, NAMES, VALUES, st.sampled_from([INDEX, INDEX, INDEX, LITERAL, NEVER]))
POOLS = st.lists(FIELDS, min_size=1, max_size=12)
"""Fields that blocks are made of: they come again, as the same objects."""


@dataclass
class Sizes:
    """The reader's settings change, so often between two blocks."""

    values: list[int]


STEPS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 11), max_size=10),
        st.lists(st.sampled_from([0, 31, 40, 100, 256, 1000, 4096]), min_size=1, max_size=4).map(Sizes),
    ),
    max_size=12,
)


def pairs(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    return [(field.name, field.value) for field in fields]


def table(decoder: BlockDecoder) -> list[tuple[bytes, bytes]]:
    """Newest first."""
    held, age, entries = decoder._table, 0, []
    while (entry := held.get(age)) is not None:
        entries.append((entry.name, entry.value))
        age += 1
    assert sum(len(name) + len(value) + OVERHEAD for name, value in entries) == held.size <= held.limit
    return entries


@given(POOLS, STEPS, st.booleans())
def test_the_library_reads_what_we_write(pool: list[Field], steps: list[object], coded: bool) -> None:
    encoder, theirs, ours = BlockEncoder(huffman=coded), hpack.Decoder(), BlockDecoder(MAX_LIST, MAX_FIELDS)
    for step in steps:
        if isinstance(step, Sizes):
            for size in step.values:
                encoder.resize(size)
                theirs.max_allowed_table_size = size
            ours.allow(step.values[-1])
            continue
        assert isinstance(step, list)
        fields = [pool[index % len(pool)] for index in step]
        block = encoder.encode(fields)
        read = theirs.decode(block, raw=True)
        assert [tuple(pair) for pair in read] == pairs(fields)
        assert [not pair.indexable for pair in read] == [field.hint == NEVER for field in fields], "kept never indexed"
        again, excess = ours.decode(block)
        assert not excess and pairs(again) == pairs(fields)
        assert [field.hint == NEVER for field in again] == [field.hint == NEVER for field in fields]
        assert table(ours) == list(theirs.header_table.dynamic_entries)
        assert set(encoder._numbers) == {Field(*pair) for pair in table(ours)}, "nothing that was dropped is kept"
        assert len(encoder._table._entries) <= 64 + 4096 // OVERHEAD


@given(POOLS, STEPS, st.booleans())
def test_we_read_what_the_library_writes(pool: list[Field], steps: list[object], coded: bool) -> None:
    decoder, theirs, changes = BlockDecoder(MAX_LIST, MAX_FIELDS), hpack.Encoder(), []
    for step in steps:
        if isinstance(step, Sizes):
            changes += step.values
            decoder.allow(step.values[-1])
            continue
        assert isinstance(step, list)
        for size in (min(changes), changes[-1]) if changes else ():
            if size != theirs.header_table_size:  # it would forget to announce a change set twice
                theirs.header_table_size = size
        changes = []
        fields = [pool[index % len(pool)] for index in step]
        block = theirs.encode([(f.name, f.value, f.hint == NEVER) for f in fields], huffman=coded)
        read, excess = decoder.decode(block)
        assert not excess and pairs(read) == pairs(fields)
        assert all(f.hint == NEVER for f, field in zip(fields, read, strict=True) if field.hint == NEVER)
        assert table(decoder) == list(theirs.header_table.dynamic_entries)


@given(st.binary(max_size=200))
def test_huffman_is_the_librarys(text: bytes) -> None:
    code = hpack.huffman.HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
    assert huffman.encode(text) == code and huffman.encoded_size(text) == len(code)
    assert huffman.decode(b"x" + code + b"y", 1, 1 + len(code)) == text


@settings(max_examples=1000)
@given(st.binary(max_size=40))
@example(b"\xff")
@example(b"\x3f\xff\xff\xff")
@example(b"\x1e")
def test_huffman_refuses_what_the_library_refuses(code: bytes) -> None:
    try:
        expected: bytes | None = hpack.huffman_table.decode_huffman(code)
    except HPACKError:
        expected = None
    assert huffman.decode(code, 0, len(code)) == expected


def test_the_codes_are_those_of_appendix_b() -> None:
    assert list(huffman._CODES) == REQUEST_CODES and list(huffman._LENGTHS) == REQUEST_CODES_LENGTH


def test_the_static_table_is_that_of_appendix_a() -> None:
    assert pairs(STATIC[1:]) == list(hpack.table.HeaderTable.STATIC_TABLE)


BLOCK_PARTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([
        b"\x82", b"\xbe", b"\xbf", b"\xc0", b"\x20", b"\x3f\x45", b"\x3f\xe1\x1f", b"\x3f\xe2\x1f", b"\x40\x01a\x01b",
        b"\x41\x85\xf1\xe3\xc2\xe5\xf2", b"\x10\x01n\x01v", b"\x00\x01p\x00", b"\x7e\x01z", b"\xff\x00",
        b"\xff\x80\x01",
        b"\x7f\x80\x80\x80\x80\x00", b"\x7f\x80\x80\x80\x80\x80\x00", b"\x40\x7f\x00" + b"n" * 127 + b"\x00",
    ]),
)  # fmt: skip
BLOCKS = st.lists(BLOCK_PARTS, max_size=12).map(b"".join)


@settings(max_examples=1000)
@given(st.lists(BLOCKS, min_size=1, max_size=4))
def test_any_octets(blocks: list[bytes]) -> None:
    """Fields or PeerError; and what the library accepts we read alike, but for the differences above."""
    ours, theirs = BlockDecoder(MAX_LIST, MAX_FIELDS), hpack.Decoder(max_header_list_size=MAX_LIST)
    theirs.max_allowed_table_size = 4096
    for block in blocks:
        mistake = ""
        try:
            read, excess = ours.decode(block)
        except PeerError as error:
            assert error.code is ErrorCode.COMPRESSION_ERROR and str(error).isprintable()
            mistake = str(error)
        try:
            expected = [tuple(pair) for pair in theirs.decode(block, raw=True)]
        except OversizedHeaderListError:
            assert mistake or excess
            return
        except HPACKError:
            assert mistake
            return
        if mistake:
            assert "too long" in mistake or "after a field" in mistake, mistake
            event(mistake)
            return
        assert pairs(read) == expected and not excess
        assert table(ours) == list(theirs.header_table.dynamic_entries)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_block_that_is_cut_off_is_an_error(cut: int) -> None:
    whole = b"\x40\x04name\x05value"
    with pytest.raises(PeerError):
        BlockDecoder(MAX_LIST, MAX_FIELDS).decode(whole[:cut])
