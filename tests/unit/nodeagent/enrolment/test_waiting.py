"""One answer to each question, at the change that decides it; a bound on questions, and a share for each asker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nodeagent.enrolment import waiting as module
from nodeagent.enrolment.standing import CaptureStanding
from nodeagent.enrolment.waiting import Verdict, WaitingRoom, WaitOutcome, WaitRequest

IN, OUT = CaptureStanding(True), CaptureStanding(False, "not yet")
NOBODY = CaptureStanding(False, "nobody selects it", unselected=True)


class Scene:
    def __init__(self) -> None:
        self.looks = self.hurried = self.judged = 0
        self.standing = OUT
        self.room = WaitingRoom(lambda: self.looks, self.hurry)

    def hurry(self) -> None:
        self.hurried += 1

    def judge(self) -> CaptureStanding:
        self.judged += 1
        return self.standing

    def ask(
        self, asker: str = "user 1", *, seconds: float = 20, root: bool = False, optional: bool = False
    ) -> asyncio.Task[Verdict]:
        asked = WaitRequest(asker=asker, privileged=root, seconds=seconds, optional=optional)
        return asyncio.ensure_future(self.room.wait(self.judge, asked))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        await story(scene)
        assert len(scene.room) == 0, "no question is left, and no share is taken"
        assert len(scene.room._shares) == 0

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_is_so_already_is_answered_at_once() -> None:
    async def story(scene: Scene) -> None:
        scene.standing = IN
        assert await scene.ask(seconds=0) == Verdict(WaitOutcome.CAPTURED)

    play(story)


def test_it_is_judged_when_something_changes_and_at_no_other_time() -> None:
    async def story(scene: Scene) -> None:
        asking = scene.ask()
        await scene.settle()
        judged = scene.judged
        await asyncio.sleep(0.05)
        assert (scene.judged, scene.hurried) == (judged, 1)
        scene.room.look()
        await scene.settle()
        assert not asking.done()
        scene.standing = IN
        scene.room.look()
        scene.room.look()
        assert await asking == Verdict(WaitOutcome.CAPTURED)

    play(story)


def test_when_its_time_is_over_it_is_told_why() -> None:
    async def story(scene: Scene) -> None:
        assert await scene.ask(seconds=0) == Verdict(WaitOutcome.LATE, "not yet")

    play(story)


def test_nobody_waits_for_ever(monkeypatch: object) -> None:
    async def story(scene: Scene) -> None:
        before, module.MAX_WAIT_SECONDS = module.MAX_WAIT_SECONDS, 0.01  # type: ignore[misc]
        try:
            assert await scene.ask(seconds=1e9) == Verdict(WaitOutcome.LATE, "not yet")
        finally:
            module.MAX_WAIT_SECONDS = before  # type: ignore[misc]

    play(story)


def test_where_it_is_optional_only_a_look_that_began_later_lets_it_go() -> None:
    async def story(scene: Scene) -> None:
        scene.looks, scene.standing = 5, NOBODY
        optional, must = scene.ask(optional=True), scene.ask(seconds=0.2)
        await scene.settle()
        scene.room.look()
        await scene.settle()
        assert not optional.done(), "the look that counts was made before it asked"
        scene.looks += 1
        scene.room.look()
        assert await optional == Verdict(WaitOutcome.UNSELECTED, NOBODY.why)
        assert (await must).outcome is WaitOutcome.LATE
        scene.standing = OUT
        contested = scene.ask(optional=True, seconds=0.05)
        await scene.settle()
        scene.looks += 1
        scene.room.look()
        assert (await contested).outcome is WaitOutcome.LATE, "somebody selects it"

    play(story)


def test_whoever_goes_away_gives_back_its_place() -> None:
    async def story(scene: Scene) -> None:
        asking = scene.ask()
        await scene.settle()
        assert len(scene.room) == 1
        asking.cancel()
        await scene.settle()

    play(story)


def test_one_asker_does_not_use_up_what_others_need() -> None:
    async def story(scene: Scene) -> None:
        mine = [scene.ask("user 1") for _ in range(module.MAX_WAITING_OF_ONE)]
        await scene.settle()
        refused = await scene.ask("user 1")
        assert refused.outcome is WaitOutcome.REFUSED
        assert f"{module.MAX_WAITING_OF_ONE} questions that wait at once are the limit for user 1" in refused.why
        other = scene.ask("user 2")
        await scene.settle()
        assert not other.done()
        users = [scene.ask(f"user {n}") for n in range(3, 3 + module.MAX_WAITING_OF_USERS)]
        await scene.settle()
        late = [task for task in users if task.done()]
        assert late and "for all users but root" in (await late[0]).why
        root = [scene.ask(f"cgroup {n}", root=True) for n in range(module.MAX_WAITING - module.MAX_WAITING_OF_USERS)]
        await scene.settle()
        assert not any(task.done() for task in root), "the rest is root's"
        assert "limit of this agent" in (await scene.ask("cgroup 0", root=True)).why
        scene.standing = IN
        scene.room.look()
        await asyncio.gather(*mine, other, *users, *root)

    play(story)
