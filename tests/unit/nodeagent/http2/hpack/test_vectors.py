"""RFC 7541, appendix C: its octets read and written."""

from __future__ import annotations

import pytest

from nodeagent.http2.hpack import huffman
from nodeagent.http2.hpack.decoder import BlockDecoder
from nodeagent.http2.hpack.encoder import BlockEncoder
from nodeagent.http2.hpack.field import INDEX, LITERAL, NEVER, Field
from nodeagent.http2.hpack.octets import integer

Pairs = list[tuple[str, str]]
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
REQUESTS: list[Pairs] = [
    GET,
    [*GET, ("cache-control", "no-cache")],
    [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), (":authority", "www.example.com"),
     ("custom-key", "custom-value")],
]  # fmt: skip
DATES = ("Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT")
LOCATION = ("location", "https://www.example.com")
PRIVATE = ("cache-control", "private")
RESPONSES: list[Pairs] = [
    [(":status", "302"), PRIVATE, ("date", DATES[0]), LOCATION],
    [(":status", "307"), PRIVATE, ("date", DATES[0]), LOCATION],
    [(":status", "200"), PRIVATE, ("date", DATES[1]), LOCATION, ("content-encoding", "gzip"),
     ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")],
]  # fmt: skip
C_3 = (
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
C_4 = (
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
C_5 = (
    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f"
    "7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b42"
    "5a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
)
C_6 = (
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f"
    "3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
)
SEQUENCES = {
    "C.3 requests": (REQUESTS, C_3, False, 4096, (57, 110, 164)),
    "C.4 requests, Huffman": (REQUESTS, C_4, True, 4096, (57, 110, 164)),
    "C.5 responses, a table of 256": (RESPONSES, C_5, False, 256, (222, 222, 215)),
    "C.6 responses, Huffman, a table of 256": (RESPONSES, C_6, True, 256, (222, 222, 215)),
}


def fields(pairs: Pairs, hint: int = INDEX) -> list[Field]:
    return [Field(name.encode(), value.encode(), hint) for name, value in pairs]


def texts(read: list[Field]) -> Pairs:
    return [field.text for field in read]


@pytest.mark.parametrize(
    ("value", "largest", "octets"), [(10, 0x1F, "0a"), (1337, 0x1F, "1f9a0a"), (42, 0xFF, "2a")], ids=str
)
def test_integers(value: int, largest: int, octets: str) -> None:
    assert integer(0, largest, value).hex() == octets


LITERALS = {
    "C.2.1 with indexing": (INDEX, ("custom-key", "custom-header"),
                            "400a637573746f6d2d6b65790d637573746f6d2d686561646572", 55),
    "C.2.2 without indexing": (LITERAL, (":path", "/sample/path"), "040c2f73616d706c652f70617468", 0),
    "C.2.3 never indexed": (NEVER, ("password", "secret"), "100870617373776f726406736563726574", 0),
    "C.2.4 indexed": (INDEX, (":method", "GET"), "82", 0),
}  # fmt: skip


@pytest.mark.parametrize(("hint", "pair", "octets", "size"), LITERALS.values(), ids=LITERALS)
def test_fields(hint: int, pair: tuple[str, str], octets: str, size: int) -> None:
    decoder = BlockDecoder(4096, 10)
    read, excess = decoder.decode(bytes.fromhex(octets))
    assert texts(read) == [pair] and not excess and decoder._table.size == size
    assert BlockEncoder().encode(fields([pair], hint)).hex() == octets
    assert BlockEncoder().encode(read).hex() == octets, "written for the next hop as it came"


@pytest.mark.parametrize(("lists", "blocks", "coded", "limit", "sizes"), SEQUENCES.values(), ids=SEQUENCES)
def test_sequences(
    lists: list[Pairs], blocks: tuple[str, ...], coded: bool, limit: int, sizes: tuple[int, ...]
) -> None:
    decoder, encoder = BlockDecoder(4096, 10), BlockEncoder(huffman=coded)
    decoder._table.limit = encoder._table.limit = limit
    for pairs, block, size in zip(lists, blocks, sizes, strict=True):
        assert texts(decoder.decode(bytes.fromhex(block))[0]) == pairs
        assert encoder.encode(fields(pairs)).hex() == block
        assert decoder._table.size == encoder._table.size == size


@pytest.mark.parametrize(
    ("text", "code"),
    [("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"), ("no-cache", "a8eb10649cbf"), ("302", "6402"), ("", "")],
)
def test_huffman(text: str, code: str) -> None:
    assert huffman.encode(text.encode()).hex() == code
    octets = bytes.fromhex(code)
    assert huffman.decode(octets, 0, len(octets)) == text.encode()
    assert huffman.encoded_size(text.encode()) == len(octets)
