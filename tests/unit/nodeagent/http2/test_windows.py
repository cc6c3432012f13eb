"""What a peer may have in flight: first window, growth, budget."""

from __future__ import annotations

from nodeagent.http2.windows import (
    FIRST_STREAM_WINDOW,
    MAX_STREAM_WINDOW,
    ReceiveWindow,
    WindowBudget,
)

HALF = FIRST_STREAM_WINDOW // 2


def test_a_peer_may_send_its_window_and_not_an_octet_more() -> None:
    window = ReceiveWindow(WindowBudget(0))
    assert window.received(FIRST_STREAM_WINDOW)
    assert not window.received(1)


def test_what_was_read_is_granted_again_from_half_a_window_on() -> None:
    window = ReceiveWindow(WindowBudget(0))
    assert window.received(FIRST_STREAM_WINDOW)
    assert window.consumed(HALF - 1, keeps_up=False) == 0
    assert window.consumed(1, keeps_up=False) == HALF
    assert window.received(HALF)
    assert not window.received(1)


def test_a_reader_that_keeps_up_gets_twice_the_window_up_to_the_most() -> None:
    budget = WindowBudget()
    before = budget.left
    window = ReceiveWindow(budget)
    sizes = [window.size]
    for _ in range(8):
        assert window.received(window.size)
        assert window.consumed(window.size, keeps_up=True) > 0
        sizes.append(window.size)
    assert sizes[:5] == [FIRST_STREAM_WINDOW << step for step in range(5)]
    assert sizes[-1] == MAX_STREAM_WINDOW
    assert before - budget.left == MAX_STREAM_WINDOW - FIRST_STREAM_WINDOW
    assert window.received(MAX_STREAM_WINDOW)
    assert not window.received(1)


def test_a_slow_reader_keeps_the_first_window() -> None:
    window = ReceiveWindow(WindowBudget())
    for _ in range(5):
        assert window.received(HALF)
        assert window.consumed(HALF, keeps_up=False) == HALF
    assert window.size == FIRST_STREAM_WINDOW


def test_without_budget_no_window_grows_but_all_go_on() -> None:
    budget = WindowBudget(FIRST_STREAM_WINDOW)
    first, second = ReceiveWindow(budget), ReceiveWindow(budget)
    for window in (first, second):
        assert window.received(HALF)
    assert first.consumed(HALF, keeps_up=True) == HALF + FIRST_STREAM_WINDOW
    assert second.consumed(HALF, keeps_up=True) == HALF
    assert budget.left == 0


def test_the_budget_gets_back_what_a_stream_had_once() -> None:
    budget = WindowBudget(FIRST_STREAM_WINDOW)
    window = ReceiveWindow(budget)
    assert window.received(HALF)
    window.consumed(HALF, keeps_up=True)
    assert budget.left == 0
    window.close()
    window.close()
    assert budget.left == FIRST_STREAM_WINDOW
    assert not budget.take(FIRST_STREAM_WINDOW + 1)
    assert budget.left == FIRST_STREAM_WINDOW
