"""Who gives way in a crowd of many owners, and whom an address belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.limits.crowd import Crowd
from nodeagent.limits.owner import network_of


def test_the_oldest_of_whoever_has_its_share_gives_way() -> None:
    crowd: Crowd[str] = Crowd(total=10, share=2)
    for guest in ("a1", "a2", "b1"):
        crowd.enter(guest, guest[0])
    assert crowd.used_up("a") and crowd.gives_way("a") == "a1"
    assert not crowd.used_up("b") and crowd.gives_way("b") is None
    assert crowd.gives_way("a", lambda guest: guest != "a1") == "a2"


def test_where_all_room_is_used_whoever_has_most_gives_way_to_a_newcomer() -> None:
    crowd: Crowd[str] = Crowd(total=4, share=4)
    for guest in ("b1", "a1", "a2", "a3"):
        crowd.enter(guest, guest[0])
    assert crowd.full and crowd.heaviest == "a"
    assert crowd.gives_way("c") == "a1"
    crowd.leave("a1")
    crowd.enter("c1", "c")
    assert crowd.gives_way("d") == "a2"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=200))
def test_sizes_and_the_heaviest_are_those_of_a_plain_count(moves: list[tuple[str, bool]]) -> None:
    crowd: Crowd[int] = Crowd(total=1000, share=1000)
    inside: dict[str, list[int]] = {}
    for number, (owner, enters) in enumerate(moves):
        if enters:
            crowd.enter(number, owner)
            inside.setdefault(owner, []).append(number)
        elif inside.get(owner):
            assert crowd.leave(inside[owner].pop(0))
        assert len(crowd) == sum(map(len, inside.values()))
        most = max(map(len, inside.values()), default=0)
        assert crowd.size(crowd.heaviest) == most
        assert crowd.oldest(owner) == next(iter(inside.get(owner, ())), None)
    assert not crowd.leave(-1)


@pytest.mark.parametrize(
    ("ip", "owner"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
    ],
)
def test_an_ipv6_host_is_its_network(ip: str, owner: str) -> None:
    assert network_of(ip) == owner
