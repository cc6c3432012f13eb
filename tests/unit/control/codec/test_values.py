"""Reading is strict about what is there and forgiving about what is new."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest

from control.codec.values import DecodeError, decode, encode, from_json, to_json
from control.wire.discovery import Action, AuthorizationPolicy, OperationMatch, SourceMatch, Workload
from tests.support.objects import bundle, policy, rule, service, workload


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    number: int
    name: str = "none"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    items: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    table: dict[str, int] = field(default_factory=dict)
    colour: Colour = Colour.RED
    ratio: float = 0.5
    flag: bool = False
    free: Any = None


@pytest.mark.parametrize(
    "value",
    [
        workload(labels={"a": "b"}, app_address="127.0.0.1", policies=("p",)),
        service(),
        policy("p", Action.ALLOW, rule(SourceMatch(principals=("*",)), OperationMatch(ports=(1,)))),
        bundle("pem"),
        Outer(Inner(1), (Inner(2, "two"),), Inner(3), {"k": 4}, Colour.RED, 1.5, True, {"x": [None]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip_through_json(value: Any) -> None:
    assert decode(type(value), json.loads(json.dumps(encode(value)))) == value
    assert from_json(type(value), to_json(value)) == value
    assert json.loads(to_json(value)) == encode(value)


def test_defaults_and_unknown_fields() -> None:
    assert decode(Outer, {"inner": {"number": 1, "new": 2}, "newer": {}}) == Outer(Inner(1))


def test_a_float_may_be_sent_as_an_integer() -> None:
    assert decode(Outer, {"inner": {"number": 1}, "ratio": 2}).ratio == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inner": {}}, "Outer.inner.number: missing"),
    ({"inner": None}, "Outer.inner: expected `object`, got `null`"),
    ({"inner": [1]}, "Outer.inner: expected `object`, got `array`"),
    ({"inner": {"number": "1"}}, "Outer.inner.number: expected `int`, got `str`"),
    ({"inner": {"number": True}}, "Outer.inner.number: expected `int`, got `bool`"),
    ({"inner": {"number": 1.5}}, "Outer.inner.number: expected `int`, got `float`"),
    ({"inner": {"number": None}}, "Outer.inner.number: expected `int`, got `null`"),
    ({"items": {}}, "Outer.items: expected `array`, got `object`"),
    ({"items": "text"}, "Outer.items: expected `array`, got `str`"),
    ({"items": [{"number": 1}, 2]}, "Outer.items[1]: expected `object`, got `int`"),
    ({"items": [{"number": 1}, {"number": 1, "name": 0}]}, "Outer.items[1].name: expected `str`, got `int`"),
    ({"maybe": 1}, "Outer.maybe: expected `object | null`, got `int`"),
    ({"table": []}, "Outer.table: expected `object`, got `array`"),
    ({"table": {"k": "v"}}, "Outer.table[...]: expected `int`, got `str`"),
    ({"colour": "blue"}, "Outer.colour: invalid enum value 'blue'"),
    ({"colour": ["red"]}, "Outer.colour: expected `str`, got `array`"),
    ({"ratio": "1"}, "Outer.ratio: expected `float`, got `str`"),
    ({"flag": 1}, "Outer.flag: expected `bool`, got `int`"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_what_is_wrong_is_named_by_its_path(change: dict[str, Any], says: str) -> None:
    form = {"inner": {"number": 1}, **change}
    for read in (lambda: decode(Outer, form), lambda: from_json(Outer, json.dumps(form).encode())):
        with pytest.raises(DecodeError) as caught:
            read()
        assert str(caught.value) == says


@pytest.mark.parametrize("value", [None, [], "text", 1, True])
def test_a_value_that_is_no_object(value: object) -> None:
    with pytest.raises(DecodeError, match="expected `object`"):
        decode(Workload, value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"inner":{"number":' + b"1" * 5000 + b"}}"])
def test_text_that_is_no_json_or_too_deep_or_too_long_a_number(text: bytes) -> None:
    with pytest.raises(DecodeError, match="Outer"):
        from_json(Outer, text)


def test_text_that_has_no_utf8_is_escaped_and_then_refused_by_its_reader_alone() -> None:
    """An operator wrote half of a character pair: the object is lost, discovery is not."""
    encoded = to_json(workload(labels={"note": "\ud800"}))
    assert b"\\ud800" in encoded
    with pytest.raises(DecodeError):
        from_json(Workload, encoded)


def test_enums_are_read_as_enums() -> None:
    decoded = decode(AuthorizationPolicy, encode(policy("p", Action.DENY)))
    assert decoded.action is Action.DENY
