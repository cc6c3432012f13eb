"""Reading is strict about what is there and forgiving about what is new."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest

from control.wire.codec import DecodeError, decode, encode
from control.wire.discovery import Action, AuthorizationPolicy, OperationMatch, SourceMatch, Workload
from control.wire.watch import Batch, Change
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
        Batch(instance="i", revision=3, snapshot=True, changes=(Change(kind="k", uid="u", value={"any": [1, None]}),)),
        Outer(Inner(1), (Inner(2, "two"),), Inner(3), {"k": 4}, Colour.RED, 1.5, True, {"x": [None]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip_through_json(value: Any) -> None:
    assert decode(type(value), json.loads(json.dumps(encode(value)))) == value


def test_defaults_and_unknown_fields() -> None:
    assert decode(Outer, {"inner": {"number": 1, "new": 2}, "newer": {}}) == Outer(Inner(1))


def test_a_float_may_be_sent_as_an_integer() -> None:
    assert decode(Outer, {"inner": {"number": 1}, "ratio": 2}).ratio == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inner": {}}, "Outer.inner.number: missing"),
        ({"inner": None}, "Outer.inner: expected an object, found NoneType"),
        ({"inner": [1]}, "Outer.inner: expected an object, found list"),
        ({"inner": {"number": "1"}}, "Outer.inner.number: expected int, found str"),
        ({"inner": {"number": True}}, "Outer.inner.number: expected int, found bool"),
        ({"inner": {"number": 1.0}}, "Outer.inner.number: expected int, found float"),
        ({"inner": {"number": None}}, "Outer.inner.number: expected int, found NoneType"),
        ({"items": {}}, "Outer.items: expected a list, found dict"),
        ({"items": "text"}, "Outer.items: expected a list, found str"),
        ({"items": [{"number": 1}, 2]}, "Outer.items[1]: expected an object, found int"),
        ({"items": [{"number": 1}, {"number": 1, "name": 0}]}, "Outer.items[1].name: expected str, found int"),
        ({"maybe": 1}, "Outer.maybe: expected an object, found int"),
        ({"table": []}, "Outer.table: expected an object, found list"),
        ({"table": {"k": "v"}}, "Outer.table.k: expected int, found str"),
        ({"colour": "blue"}, "Outer.colour: unknown value 'blue' (known: red)"),
        ({"colour": ["red"]}, "Outer.colour: unknown value ['red'] (known: red)"),
        ({"ratio": "1"}, "Outer.ratio: expected float, found str"),
        ({"flag": 1}, "Outer.flag: expected bool, found int"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Outer, {"inner": {"number": 1}, **change})
    assert str(caught.value) == says


@pytest.mark.parametrize("value", [None, [], "text", 1, True])
def test_a_value_that_is_no_object(value: object) -> None:
    with pytest.raises(DecodeError, match="expected an object"):
        decode(Workload, value)


def test_a_union_of_two_types_is_a_mistake_of_ours() -> None:
    @dataclass
    class Bad:
        field: int | str

    Bad.__annotations__["field"] = int | str
    with pytest.raises(TypeError, match="unions"):
        decode(Bad, {"field": 1})


def test_enums_are_read_as_enums() -> None:
    decoded = decode(AuthorizationPolicy, encode(policy("p", Action.DENY)))
    assert decoded.action is Action.DENY
