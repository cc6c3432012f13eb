"""Plain header blocks against the general codec: whatever we write it reads, whatever we read it reads alike."""

from __future__ import annotations

import hpack
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.http2.headers import decode, encode

LIMIT = 16 * 1024
NAMES = st.sampled_from([":method", ":authority", ":status", "forwarded", "baggage", "traceparent", "via", "x-é"])
VALUES = st.one_of(st.sampled_from(["CONNECT", "200", "GET", ""]), st.text(max_size=40), st.text("a", min_size=120))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def general(block: bytes, decoder: hpack.Decoder | None = None) -> list[tuple[str, str]]:
    fields = (decoder or hpack.Decoder(max_header_list_size=LIMIT)).decode(block, raw=True)
    return [(name.decode("utf-8", "replace"), value.decode("utf-8", "replace")) for name, value in fields]


@given(HEADERS)
def test_what_we_write_is_read_by_both(headers: list[tuple[str, str]]) -> None:
    block = encode(headers)
    assert general(block) == headers
    assert decode(block, LIMIT) == headers


@given(HEADERS, HEADERS)
def test_the_general_codecs_state_is_left_alone(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> None:
    """Blocks of both kinds may come over one connection, in any order."""
    encoder, decoder = hpack.Encoder(), hpack.Decoder()
    for _ in range(2):
        assert general(encoder.encode(theirs), decoder) == theirs
        assert general(encode(ours), decoder) == ours


@settings(max_examples=1000)
@given(st.one_of(st.binary(max_size=60), HEADERS.map(encode).flatmap(lambda block: st.just(block[: len(block) // 2]))))
def test_what_we_read_the_general_codec_reads_alike(block: bytes) -> None:
    read = decode(block, LIMIT)
    if read is not None:
        try:
            assert general(block) == read
        except HPACKError as error:
            raise AssertionError(f"we read {read}") from error


@given(HEADERS.filter(bool))
def test_the_limit_is_the_libraries(headers: list[tuple[str, str]]) -> None:
    size = sum(len(name.encode()) + len(value.encode()) + 32 for name, value in headers)
    assert decode(encode(headers), size - 1) is None
