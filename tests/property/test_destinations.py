"""Destinations that are kept by key are those that the whole state gives, and nothing else is touched."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.wire.address import SocketAddress
from control.wire.discovery import ExternalEndpoint
from control.wire.watch import Change
from nodeagent.capture.destinations import DestinationTable
from nodeagent.capture.plan import Entry, destinations_of
from nodeagent.state import recent
from nodeagent.state.view import NodeState
from tests.property.test_state import changes, objects
from tests.support.objects import change, delta, external, gone, snapshot

outside = st.builds(
    lambda name, ips: external(name, *(ExternalEndpoint(address=ip) for ip in ips)),
    st.sampled_from(("x.example", "y.example")),
    st.lists(st.sampled_from(("10.0.0.1", "192.0.2.1")), unique=True, min_size=1, max_size=2),
).flatmap(lambda value: st.sampled_from([change(value), gone(value)]))
stories = st.lists(st.lists(st.one_of(changes, outside), max_size=4), max_size=6)


def whole(state: NodeState) -> dict[SocketAddress, Entry]:
    """By the rule: the highest uid is written first, so that the lowest stays."""

    def last_first(items):  # type: ignore[no-untyped-def]
        return sorted(items, key=lambda item: item.uid, reverse=True)

    return destinations_of(last_first(state.services()), last_first(state.workloads())).entries


@pytest.mark.parametrize("remembered", [0, 4096], ids=["forgetful", "usual"])
@settings(max_examples=80, deadline=None)
@given(batches=stories, looks=st.lists(st.booleans(), min_size=6, max_size=6))
def test_they_are_those_of_the_whole_state(remembered: int, batches: list[list[Change]], looks: list[bool]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "MAX_REMEMBERED", remembered)
        state, table = NodeState(), DestinationTable()
        state.apply(snapshot())
        present: dict[SocketAddress, Entry] = {}
        for number, (batch, look) in enumerate(zip([*batches, []], [*looks[: len(batches)], True], strict=True)):
            state.apply(delta(*batch, revision=number + 2))
            if not look:
                continue  # several batches between two looks
            found = table.follow(state)
            assert found.entries == whole(state)
            differ = {at for at in {*present, *found.entries} if present.get(at) != found.entries.get(at)}
            assert found.touched is None or differ <= found.touched
            present = dict(found.entries)
            table.confirmed()


@settings(max_examples=30, deadline=None)
@given(st.lists(objects, min_size=1, max_size=6))
def test_what_was_not_confirmed_is_touched_still(items: list) -> None:  # type: ignore[type-arg]
    state, table = NodeState(), DestinationTable()
    state.apply(snapshot(*items))
    assert table.follow(state).touched is None and table.follow(state).touched is None, "nobody has written them yet"
    table.confirmed()
    assert table.follow(state).touched == frozenset()
    state.apply(delta(*(gone(item) for item in items)))
    first = table.follow(state)
    assert first.entries == {} and table.follow(state).touched == first.touched
