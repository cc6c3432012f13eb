"""Agents and controls of other versions: they read what we write, and we read what they write.

``golden/watch-of-2026-11.ndjson`` was written by control before it had ``control.codec``, ``former_codec`` is the
reader of that time. ``golden/watch.ndjson`` is the same stream as we write it: a change of it is a change of the
protocol (write it anew with ``python -m tests.contract.test_wire_golden``).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from control.codec.lines import read_line, read_whole
from control.codec.values import from_json, to_json
from control.wire.discovery import KINDS
from nodeagent.client.mirror import Mirror
from nodeagent.state.view import NodeState
from nodeagent.steps import at_once
from tests.contract.former_codec import FormerBatch, decode
from tests.support.objects import line

GOLDEN = Path(__file__).parent / "golden"
FORMER = (GOLDEN / "watch-of-2026-11.ndjson").read_bytes().splitlines()


def rewritten(text: bytes) -> bytes:
    """The line as control writes it now: every object is read, and encoded again."""
    batch = read_whole(text)
    changes = (
        change if change.value is None else replace(change, value=to_json(from_json(KINDS[change.kind], change.value)))
        for change in batch.changes
    )
    return line(replace(batch, changes=tuple(changes)))


@pytest.mark.parametrize("number", range(len(FORMER)))
def test_we_read_what_control_wrote(number: int) -> None:
    text = FORMER[number]
    then = decode(FormerBatch, json.loads(text))
    for now in (read_whole(text), at_once(read_line(text))):
        assert (now.instance, now.revision, now.snapshot) == (then.instance, then.revision, then.snapshot)
        assert [(c.kind, c.uid, c.value and json.loads(c.value)) for c in now.changes] == [
            (c.kind, c.uid, c.value) for c in then.changes
        ]


def test_a_node_makes_the_same_of_a_stream_as_it_did() -> None:
    state, mirror = NodeState(), Mirror()
    for text in FORMER[:3]:
        batch = read_whole(text)
        assert state.apply(batch).rejected == ()
        mirror.apply(batch)
    assert [item.uid for item in state.workloads()] == ["shop/web-0@1"] and len(state.services()) == 3
    assert state.bundle("mesh.internal") is not None and state.settings is not None
    assert mirror.counts() == {"bundle": 1, "mesh": 1, "policy": 2, "workload": 1, "service": 3}
    other = read_whole(FORMER[3])
    state.apply(other)
    assert state.workloads() == () and state.instance == "history-2"


@pytest.mark.parametrize("number", range(len(FORMER)))
def test_an_agent_of_that_time_reads_what_we_write(number: int) -> None:
    then = decode(FormerBatch, json.loads(FORMER[number]))
    again = decode(FormerBatch, json.loads(rewritten(FORMER[number])))
    assert replace(again, changes=()) == replace(then, changes=())
    for item, former in zip(again.changes, then.changes, strict=True):
        assert (item.kind, item.uid, item.value is None) == (former.kind, former.uid, former.value is None)
        assert {**(item.value or {}), **(former.value or {})} == (item.value or {}), "fields may only be added"
    for item in again.changes:
        if item.value is not None:
            assert to_json(decode(KINDS[item.kind], item.value)) == to_json(
                from_json(KINDS[item.kind], to_json(item.value))
            )


def test_what_we_write_is_what_is_written_down() -> None:
    assert (GOLDEN / "watch.ndjson").read_bytes() == b"".join(map(rewritten, FORMER))


if __name__ == "__main__":
    (GOLDEN / "watch.ndjson").write_bytes(b"".join(map(rewritten, FORMER)))
