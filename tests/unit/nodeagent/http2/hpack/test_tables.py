"""The tables of both directions: sizes, bounds, what is indexed, and what a forwarded field becomes."""

from __future__ import annotations

import pytest

from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.hpack.decoder import BlockDecoder
from nodeagent.http2.hpack.encoder import BlockEncoder
from nodeagent.http2.hpack.field import INDEX, LITERAL, NEVER, Field
from nodeagent.http2.hpack.octets import SIZE_UPDATE, integer

INSERT = b"\x40\x01a\x01b"
NEWEST = b"\xbe"


def decoder(max_list: int = 1024, max_fields: int = 10) -> BlockDecoder:
    return BlockDecoder(max_list, max_fields)


def size(octets: int) -> bytes:
    return integer(SIZE_UPDATE, 0x1F, octets)


def error(reader: BlockDecoder, block: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        reader.decode(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR
    return str(caught.value)


ERRORS = {
    "index 0 (6.1)": (b"\x80", "index 0"),
    "an index beyond the tables (2.3.3)": (b"\xbe", "index 62 is in no table"),
    "a name beyond the tables": (b"\x7f\x00\x01v", "index 63 is in no table"),
    "a table over the agreed size (6.3)": (size(4097), "a table of 4097 octets, 4096 are allowed"),
    "a new size after a field (4.2)": (b"\x82" + size(0), "a new size of the table after a field"),
    "an integer that is cut off (5.1)": (b"\xff\x80", "an integer is cut off"),
    "an integer of six octets (5.1)": (b"\xff" + b"\x80" * 5 + b"\x01", "an integer is too long"),
    "a huge index": (b"\xff\xff\xff\xff\xff\x7f", "is in no table"),
    "a string that is cut off (5.2)": (b"\x00\x05ab", "a string of 5 octets is cut off"),
    "a huge string": (b"\x00\x7f\xff\xff\xff\xff\x7f", "octets is cut off"),
    "no value": (b"\x00\x01a", "a literal is cut off"),
    "padding of eight bits (5.2)": (b"\x00\x01a\x82\x1f\xff", "a string breaks the Huffman code"),
    "padding of zeros": (b"\x00\x01a\x81\x18", "a string breaks the Huffman code"),
    "EOS (5.2)": (b"\x00\x01a\x84\xff\xff\xff\xff", "a string breaks the Huffman code"),
}


@pytest.mark.parametrize(("block", "text"), ERRORS.values(), ids=ERRORS)
def test_what_breaks_the_coding_ends_the_connection(block: bytes, text: str) -> None:
    assert text in error(decoder(), block)


def test_a_new_size_drops_what_does_not_fit() -> None:
    reader = decoder()
    reader.decode(INSERT + b"\x40\x01c\x01d")
    assert [field.name for field in reader.decode(size(34) + NEWEST)[0]] == [b"c"]
    assert "no table" in error(reader, size(4096) + b"\xbf")


def test_an_entry_larger_than_the_table_empties_it() -> None:
    reader = decoder(max_list=10_000)
    reader.decode(INSERT)
    fields, _ = reader.decode(b"\x40\x01a" + b"\x7f\x81\x1f" + b"v" * 4096)
    assert len(fields[0].value) == 4096
    assert "no table" in error(reader, NEWEST)


def test_a_literal_may_name_the_entry_that_it_drives_out() -> None:
    reader = decoder()
    reader.decode(size(40) + b"\x40\x03abc\x00")
    fields, _ = reader.decode(b"\x7e\x04wxyz" + NEWEST)
    assert [field.text for field in fields] == [("abc", "wxyz")] * 2


def test_a_smaller_table_must_be_announced_once_it_was_agreed() -> None:
    """RFC 9113, 4.3.1; RFC 7541, 4.2."""
    reader = decoder()
    reader.allow(100)
    assert "no new size" in error(reader, b"\x82")
    reader.allow(100)
    assert "are allowed" in error(reader, size(200) + b"\x82")
    reader.allow(100)
    assert reader.decode(size(0) + size(100) + b"\x82") == ([Field(b":method", b"GET")], "")
    reader.allow(4096)
    reader.decode(b"\x82")


def test_a_peer_may_write_every_size_that_it_was_given() -> None:
    reader = decoder()
    assert reader.decode(b"".join(map(size, (0, 100, 50, 4096, 60)))) == ([], "")
    assert reader._table.limit == 60


@pytest.mark.parametrize(
    ("block", "excess", "kept"),
    [
        (b"\x82" * 11, "more than 10 header fields", 10),
        (INSERT + b"\x40\x01c" + b"\x7f\xe9\x06" + b"v" * 1000, "a header list over 1024 octets", 1),
    ],
    ids=["fields", "octets"],
)
def test_a_list_over_a_bound_is_cut_off_and_the_table_stays_in_step(block: bytes, excess: str, kept: int) -> None:
    reader = decoder()
    fields, said = reader.decode(block + b"\x40\x01y\x01z")
    assert said == excess and len(fields) == kept
    assert reader.decode(NEWEST) == ([Field(b"y", b"z")], "")


def test_a_bomb_costs_the_memory_of_its_bound() -> None:
    """4000 octets in the table, named ten thousand times."""
    reader = decoder(max_list=16 * 1024)
    fields, excess = reader.decode(b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000 + NEWEST * 10_000)
    assert excess and len(fields) == 4 and len({id(field) for field in fields}) == 1


def test_an_entry_is_one_object_wherever_it_comes() -> None:
    reader = decoder()
    (first,), _ = reader.decode(INSERT)
    (again,), _ = reader.decode(NEWEST)
    (other,), _ = reader.decode(b"\x82")
    assert again is first and other is reader.decode(b"\x82")[0][0]


# --- what we write ---


def test_a_field_is_indexed_where_its_sender_indexed_it() -> None:
    reader, writer = decoder(), BlockEncoder()
    block = INSERT + b"\x00\x01p\x01q" + b"\x10\x01n\x01v" + b"\x40\x0btraceparent\x011"
    fields, _ = reader.decode(block)
    assert [field.hint for field in fields] == [INDEX, LITERAL, NEVER, LITERAL]
    literals = b"\x00\x01p\x01q" + b"\x10\x01n\x01v" + b"\x00\x0btraceparent\x011"
    assert writer.encode(fields) == INSERT + literals
    assert writer.encode(reader.decode(b"\xbf")[0]) == NEWEST
    assert writer.encode(fields) == NEWEST + literals


def test_the_same_field_of_another_connection_is_found() -> None:
    writer = BlockEncoder()
    assert writer.encode([Field(b"a", b"b")]) == INSERT
    assert writer.encode([Field(b"a", b"b")]) == NEWEST


def test_a_field_that_must_not_be_indexed_is_not_referred_to() -> None:
    """The table may hold the same octets by another's choice; RFC 7541, 6.2.3."""
    writer = BlockEncoder()
    writer.encode([Field(b"a", b"b")])
    assert writer.encode([Field(b"a", b"b", NEVER)]) == b"\x10\x01a\x01b"
    assert writer.encode([Field(b":method", b"GET", NEVER)]) == b"\x12\x03GET"


def test_a_static_entry_is_referred_to_however_it_was_written() -> None:
    assert BlockEncoder().encode([Field(b":status", b"200"), Field(b":status", b"200", LITERAL)]) == b"\x88\x88"


def test_a_field_that_would_drive_out_everything_is_not_indexed() -> None:
    writer, large = BlockEncoder(), Field(b"cookie", b"c" * 3000)
    writer.encode([Field(b"a", b"b")])
    assert writer.encode([large])[0] == 0x0F and writer.encode([large])[0] == 0x0F
    assert writer.encode([Field(b"a", b"b")]) == NEWEST


def test_the_smallest_and_the_last_size_are_announced_once() -> None:
    writer, one = BlockEncoder(), Field(b"a", b"b")
    writer.encode([one])
    for octets in (200, 0, 300, 100):
        writer.resize(octets)
    assert writer.encode([one]) == size(0) + size(100) + INSERT
    assert writer.encode([one]) == NEWEST
    writer.resize(100)
    assert writer.encode([one]) == NEWEST, "as it was"


def test_without_a_table_nothing_is_indexed() -> None:
    writer, one = BlockEncoder(), Field(b"a", b"b")
    writer.resize(0)
    assert writer.encode([one]) == size(0) + b"\x00\x01a\x01b"
    assert writer.encode([one]) == b"\x00\x01a\x01b"
    assert BlockEncoder().encode([one]) == INSERT, "another connection has one"
