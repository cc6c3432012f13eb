"""The contract's codec: everything survives a round trip, nothing that is read is of another shape than it says."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import typing
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.codec import lines
from control.codec.lines import read_line, read_whole, write_change, write_line
from control.codec.values import DecodeError, decode, encode, to_json
from control.wire import signing
from control.wire.address import AddressError, SocketAddress, canonical_ip, packed_ip, parse_socket_address, unpacked_ip
from control.wire.discovery import KINDS
from control.wire.ids import SpiffeId, SpiffeIdError
from control.wire.watch import Batch, Change
from nodeagent.steps import at_once

CONTRACT = [
    *KINDS.values(),
    *(c for c in vars(signing).values() if isinstance(c, type) and dataclasses.is_dataclass(c)),
]
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
changes = st.builds(
    Change,
    kind=st.text(max_size=8),
    uid=st.text(max_size=8),
    value=st.one_of(st.none(), st.dictionaries(st.text(max_size=5), json_values, max_size=3).map(to_json)),
)
batches = st.builds(
    Batch, instance=st.text(max_size=8), revision=st.integers(0, 2**60), snapshot=st.booleans(),
    changes=st.lists(changes, max_size=12).map(tuple),
)  # fmt: skip
ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
mapped = st.ip_addresses(v=4).map(lambda a: f"::ffff:{a}")


@st.composite
def spoiled(draw: st.DrawFn, cls: type[Any]) -> Any:
    """The JSON form of an object of ``cls``, of which something was replaced, dropped or added."""
    form = encode(draw(st.from_type(cls)))
    here: Any = form
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        if not keys:
            return draw(json_values) if here is form else form
        key = draw(st.sampled_from(keys))
        action = draw(st.sampled_from(["descend", "replace", "drop", "add"]))
        if action == "descend" and isinstance(here[key], (dict, list)):
            here = here[key]
            continue
        if action == "drop":
            del here[key]
        elif action == "add" and isinstance(here, dict):
            here[draw(st.text(max_size=5))] = draw(json_values)
        else:
            here[key] = draw(json_values)
        return form


@pytest.mark.parametrize("cls", CONTRACT)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_round_trip(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(st.from_type(cls))
    assert decode(cls, json.loads(json.dumps(encode(value)))) == value


@pytest.mark.parametrize("cls", CONTRACT)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_read_is_what_it_says_or_an_error_that_names_the_field(cls: type[Any], data: st.DataObject) -> None:
    form = data.draw(spoiled(cls))
    try:
        value = decode(cls, form)
    except DecodeError as error:
        assert str(error).startswith(cls.__name__)
    else:
        assert_typed(value, cls)
        assert decode(cls, encode(value)) == value


def written(batch: Batch) -> bytes:
    return write_line(batch.instance, batch.revision, map(write_change, batch.changes), snapshot=batch.snapshot)


@given(batches, st.integers(1, 60))
def test_a_line_is_read_as_it_was_written_however_it_is_cut(batch: Batch, size: int) -> None:
    line = written(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "PIECE_BYTES", size)
        assert at_once(read_line(line)) == read_whole(line) == batch
        spaced = json.dumps(json.loads(line), ensure_ascii=False, indent=1).encode().replace(b"\n", b" ")
        again = at_once(read_line(spaced))
    assert (again.instance, again.revision, len(again.changes)) == (batch.instance, batch.revision, len(batch.changes))


@given(batches, st.data())
def test_a_damaged_line_is_read_in_pieces_as_it_is_read_whole(batch: Batch, data: st.DataObject) -> None:
    line = bytearray(written(batch))
    position = data.draw(st.integers(0, len(line) - 1))
    line[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "PIECE_BYTES", 10)
        try:
            expected: Batch | None = read_whole(bytes(line))
        except DecodeError:
            expected = None
        try:
            assert at_once(read_line(bytes(line))) == expected
        except DecodeError as error:
            assert expected is None and str(error).startswith("Batch")


def assert_typed(value: Any, annotation: Any) -> None:
    """The value is what its annotation says, all the way down: written apart from the codec."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return
    if dataclasses.is_dataclass(annotation):
        assert type(value) is annotation
        hints = typing.get_type_hints(annotation)
        for item in dataclasses.fields(typing.cast(Any, annotation)):
            assert_typed(getattr(value, item.name), hints[item.name])
    elif origin is tuple:
        assert type(value) is tuple
        for item in value:
            assert_typed(item, arguments[0])
    elif origin is dict:
        assert type(value) is dict
        for key, item in value.items():
            assert type(key) is str
            assert_typed(item, arguments[1])
    elif type(None) in arguments:
        if value is not None:
            assert_typed(value, next(a for a in arguments if a is not type(None)))
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        assert type(value) is annotation
    else:
        assert type(value) is annotation, (value, annotation)


@given(st.one_of(ips, mapped))
def test_canonical_addresses(text: str) -> None:
    canonical = canonical_ip(text)
    assert canonical_ip(canonical) == canonical
    assert unpacked_ip(packed_ip(text)) == canonical
    assert packed_ip(canonical) == packed_ip(text) and len(packed_ip(text)) == 16
    assert getattr(ipaddress.ip_address(canonical), "ipv4_mapped", None) is None


@given(st.binary(min_size=16, max_size=16))
def test_every_16_bytes_are_one_address(packed: bytes) -> None:
    text = unpacked_ip(packed)
    assert packed_ip(text) == packed and canonical_ip(text) == text


@given(st.one_of(ips, mapped), st.integers(1, 65535))
def test_socket_addresses_read_what_they_write(ip: str, port: int) -> None:
    address = SocketAddress(canonical_ip(ip), port)
    assert parse_socket_address(str(address)) == address


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[\[\]:.%0-9a-f]{0,30}", fullmatch=True)))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse_socket_address(text)
    except AddressError:
        return
    assert parse_socket_address(str(address)) == address


@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"spiffe://[a-z0-9._:%@A-Z-]{0,10}(/[a-zA-Z0-9._%?#-]{0,6}){0,6}", fullmatch=True),
    )
)
def test_any_text_is_an_id_or_an_id_error(text: str) -> None:
    try:
        identity = SpiffeId.parse(text)
    except SpiffeIdError:
        return
    assert str(identity) == text
    assert "" not in identity.segments and ".." not in identity.segments
