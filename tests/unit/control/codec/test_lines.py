"""A line of any writer is read, ours in short steps, and objects stay the bytes that they are."""

from __future__ import annotations

import json

import pytest

from control.codec.lines import PIECE_BYTES, read_line, read_whole, write_change
from control.codec.values import DecodeError, encode
from control.wire.watch import Batch, Change
from tests.support.objects import change, delta, gone, line, policy, snapshot, workload

MANY = snapshot(*(workload(f"w-{number}", labels={"x": '},{"kind":"'}) for number in range(400)), gone(policy()))


def pieces(text: bytes) -> tuple[int, Batch]:
    """How many steps the line took, and the batch."""
    steps, work = 0, read_line(text)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return steps, end.value
        steps += 1


def test_a_large_line_is_read_in_as_many_steps_as_it_has_pieces() -> None:
    steps, batch = pieces(line(MANY))
    assert batch == MANY and steps >= len(line(MANY)) // (2 * PIECE_BYTES) > 3


def test_a_small_line_is_read_at_once() -> None:
    for batch in (snapshot(workload()), delta(gone(workload())), delta()):
        assert pieces(line(batch)) == (0, batch)


def test_objects_keep_their_bytes() -> None:
    odd = b'{"uid": "u",  "n":1.50e0, "s":"\\u00e9\\/"}'
    text = b'{"instance":"i","revision":1,"changes":[{"kind":"k","uid":"u","value":' + odd + b"}]}"
    (found,) = read_whole(text).changes
    assert found == Change(kind="k", uid="u", value=odd) and odd in write_change(found)


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        lambda form: json.dumps(form, ensure_ascii=False, indent=1).replace("\n", " "),
        lambda form: json.dumps({**form, "newer": [{"kind": "x"}, {"kind": "y"}]}, separators=(",", ":")),
        lambda form: json.dumps({"changes": form["changes"], **form}, separators=(",", ":")),
        lambda form: json.dumps(
            {**form, "changes": [{"value": c["value"], "uid": c["uid"], "kind": c["kind"]} for c in form["changes"]]},
            separators=(",", ":"),
        ),
        lambda form: json.dumps(
            {**form, "changes": [{**c, "more": [{"kind": "x"}, {"kind": "y"}]} for c in form["changes"]]},
            separators=(",", ":"),
        ),
    ],
    ids=["blanks", "other blanks", "a newer field", "another order", "another order of a change", "nested alike"],
)
def test_a_line_of_another_writer_is_read_all_the_same(write) -> None:  # type: ignore[no-untyped-def]
    form = json.loads(line(MANY))
    _, batch = pieces(write(form).encode())
    assert [(c.kind, c.uid) for c in batch.changes] == [(c.kind, c.uid) for c in MANY.changes]
    assert [c.value and json.loads(c.value) for c in batch.changes] == [
        c.value and json.loads(c.value) for c in MANY.changes
    ]


def test_a_line_that_is_broken_in_a_later_piece_is_no_batch() -> None:
    text = line(MANY)
    with pytest.raises(DecodeError, match="Batch"):
        pieces(text[: len(text) - 2000] + b"]}")


def test_a_value_of_null_is_an_end_as_its_absence_is() -> None:
    for value in (b"", b',"value":null'):
        text = b'{"instance":"i","revision":1,"changes":[{"kind":"k","uid":"u"' + value + b"}]}"
        assert read_whole(text).changes == (Change(kind="k", uid="u"),)


def test_the_form_of_an_object_is_that_of_its_value() -> None:
    encoded = change(workload()).value
    assert encoded is not None and json.loads(encoded) == encode(workload())
