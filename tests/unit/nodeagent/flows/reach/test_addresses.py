"""At which address of a node to begin."""

from __future__ import annotations

from control.wire.address import SocketAddress
from nodeagent.flows.reach.addresses import MAX_FAILED, REMEMBER_SECONDS, NodeAddresses

FIRST, SECOND = SocketAddress("10.0.0.1", 15008), SocketAddress("fd00::1", 15008)


def test_what_failed_goes_behind_for_a_while() -> None:
    addresses = NodeAddresses()
    assert addresses.ordered((FIRST, SECOND), 0.0) == [FIRST, SECOND]
    addresses.failed(FIRST, 5.0)
    assert addresses.ordered((FIRST, SECOND), 6.0) == [SECOND, FIRST]
    assert addresses.ordered((FIRST, SECOND), 5.0 + REMEMBER_SECONDS) == [FIRST, SECOND]


def test_what_answers_is_as_good_as_any() -> None:
    addresses = NodeAddresses()
    addresses.failed(FIRST, 0.0)
    addresses.answered(FIRST)
    assert addresses.ordered((FIRST, SECOND), 1.0) == [FIRST, SECOND]


def test_where_all_failed_the_order_stands() -> None:
    addresses = NodeAddresses()
    addresses.failed(SECOND, 0.0)
    addresses.failed(FIRST, 0.0)
    assert addresses.ordered((FIRST, SECOND), 1.0) == [FIRST, SECOND]


def test_no_more_than_so_many_are_remembered() -> None:
    addresses = NodeAddresses()
    for port in range(1, MAX_FAILED + 2):
        addresses.failed(SocketAddress("10.0.0.1", port), 0.0)
    first, second = SocketAddress("10.0.0.1", 1), SocketAddress("10.0.0.1", 2)
    assert addresses.ordered((second, first), 1.0) == [first, second], "the oldest is forgotten"
