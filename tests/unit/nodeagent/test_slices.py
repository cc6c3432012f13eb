"""Long work never holds the loop for longer than a slice, keeps its order, and leaves room for what is short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from nodeagent.slices import SLICE_SECONDS, STEP_SECONDS, Slices, in_slices
from nodeagent.steps import Steps


class Loop:
    """Turns are taken by hand; each step of the work costs time on the same clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.done: list[str] = []
        self.slices = Slices(self.soon.append, lambda: self.now)

    def work(self, name: str, steps: int, seconds: float = STEP_SECONDS) -> Iterator[None]:
        for number in range(steps):
            self.now += seconds
            self.done.append(f"{name}{number}")
            yield

    def turn(self) -> float:
        """One turn of the loop; how long it took."""
        begin, due = self.now, self.soon[:]
        del self.soon[: len(due)]
        for function in due:
            function()
        return self.now - begin


def test_no_slice_is_longer_than_the_bound_and_all_is_done_in_order() -> None:
    loop = Loop()
    loop.slices.put(loop.work("a", 50))
    first = loop.now
    loop.slices.put(loop.work("b", 1))
    turns = []
    while loop.soon:
        turns.append(loop.turn())
    assert 0 < first <= SLICE_SECONDS and max(turns) <= SLICE_SECONDS
    assert len(turns) >= 51 * STEP_SECONDS / SLICE_SECONDS - 1
    assert loop.done == [f"a{number}" for number in range(50)] + ["b0"]
    assert not loop.slices.busy


def test_short_work_is_done_at_once() -> None:
    loop = Loop()
    loop.slices.put(loop.work("a", 3, seconds=0.0))
    assert loop.done == ["a0", "a1", "a2"] and not loop.soon


def test_work_behind_a_long_slice_waits_for_the_next_turn() -> None:
    """Otherwise a turn that brings many messages would run a slice for each of them."""
    loop = Loop()
    loop.slices.put(loop.work("a", 3))
    loop.slices.put(loop.work("b", 3))
    assert loop.now <= SLICE_SECONDS and loop.soon
    loop.turn()
    assert loop.done[-1] == "b2"


def test_what_may_wait_is_overtaken() -> None:
    loop = Loop()
    loop.slices.later(loop.work("idle", 20))
    loop.slices.put(loop.work("a", 1))
    while loop.soon:
        loop.turn()
    assert loop.done.index("a0") < loop.done.index("idle19") and len(loop.done) == 21


def test_work_that_fails_drops_what_waits_and_is_told() -> None:
    loop, told = Loop(), list[Exception]()

    def bad() -> Iterator[None]:
        yield from loop.work("bad", 9)
        raise RuntimeError("broken")

    loop.slices.on_error = told.append
    loop.slices.put(bad())
    loop.slices.put(loop.work("never", 1))
    while loop.soon:
        loop.turn()
    assert [str(error) for error in told] == ["broken"] and "never0" not in loop.done
    loop.slices.put(loop.work("after", 1))
    assert loop.done[-1] == "after0"
    loop.slices.on_error = None
    with pytest.raises(RuntimeError, match="broken"):
        Slices(loop.soon.append, lambda: 0.0).put(bad())


def test_a_coroutine_lets_the_loop_run_between_slices() -> None:
    now, turns = 0.0, 0

    def work() -> Steps[str]:
        nonlocal now
        for _ in range(40):
            now += STEP_SECONDS
            yield
        return "done"

    async def story() -> str:
        nonlocal turns
        over = False

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not over:
                asyncio.get_running_loop().call_soon(turn)

        turn()
        result = await in_slices(work(), lambda: now)
        over = True
        return result

    assert asyncio.run(story()) == "done"
    assert turns >= 40 * STEP_SECONDS / SLICE_SECONDS
