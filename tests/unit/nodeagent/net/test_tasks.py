"""Work that nobody awaits: begun at once, kept, and heard of when it fails."""

from __future__ import annotations

import asyncio

from nodeagent.net.tasks import Tasks
from tests.support.polled import Bench, polled


@polled
async def test_work_that_waits_for_nothing_needs_no_task(bench: Bench) -> None:
    tasks, done = Tasks(bench.loop), []

    async def work() -> None:
        done.append(True)

    tasks.start(work(), "work")
    assert done and not len(tasks)


@polled
async def test_work_that_waits_goes_on_as_a_task(bench: Bench) -> None:
    tasks, steps, go_on = Tasks(bench.loop), [], asyncio.Event()

    async def work() -> None:
        steps.append("begun")
        await asyncio.sleep(0)
        async with asyncio.timeout(10):  # this wants a task
            await go_on.wait()
        steps.append("done")

    tasks.start(work(), "work")
    assert steps == ["begun"] and len(tasks) == 1
    go_on.set()
    while len(tasks):
        await bench.turns(1)
    assert steps == ["begun", "done"]


@polled
async def test_work_that_fails_at_once_is_a_defect_of_its_own(bench: Bench) -> None:
    tasks = Tasks(bench.loop)

    async def work() -> None:
        raise ZeroDivisionError

    tasks.start(work(), "division")
    assert bench.said() == ["defect in task division"] and not len(tasks)


@polled
async def test_work_that_fails_later_is_a_defect_of_its_own(bench: Bench) -> None:
    tasks = Tasks(bench.loop)

    async def work() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    tasks.start(work(), "division")
    while len(tasks):
        await bench.turns(1)
    assert bench.said() == ["defect in task division"]


@polled
async def test_work_that_waits_before_it_can_is_a_defect(bench: Bench) -> None:
    tasks, ended = Tasks(bench.loop), []

    async def work() -> None:
        try:
            await bench.loop.create_future()
        finally:
            ended.append(True)

    tasks.start(work(), "early")
    assert bench.said() == ["defect in task early"] and ended and not len(tasks)
