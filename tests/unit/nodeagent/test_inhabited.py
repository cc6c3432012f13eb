"""The namespaces of a worker: entered when they are named, listened in once it may, reported before it says Ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from control.wire.address import SocketAddress
from nodeagent.channel import NamespaceEntry, Namespaces, NamespaceState
from nodeagent.namespaces.entry import NamespaceError
from nodeagent.net.poller import Poller
from nodeagent.net.tasks import Tasks
from nodeagent.worker import namespaces as room
from nodeagent.worker.listeners import WorkerListeners
from nodeagent.worker.namespaces import HomelessError, NetnsListeners

ADDRESS = SocketAddress("10.0.0.1", 80)


class Place:
    """A namespace, as far as this room looks at one."""

    def __init__(self, entry: NamespaceEntry) -> None:
        self.cookie, self.inode, self.closed = entry.cookie, entry.inode, False

    def close(self) -> None:
        self.closed = True


class Scene:
    """One worker's namespaces; ``events`` says what was done, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Any] = []
        self.missing: set[int] = set()
        self.failing: set[int] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        self.inhabited = NetnsListeners(loop, Tasks(loop), self.poller)
        monkeypatch.setattr(room, "_opened", self.enter)
        monkeypatch.setattr(WorkerListeners, "open_inside", lambda _, namespace, doors: self.listen(namespace))

    def enter(self, entry: NamespaceEntry) -> Place:
        if entry.cookie in self.missing:
            raise NamespaceError("gone already")
        self.events.append(("enter", entry.cookie))
        return Place(entry)

    async def listen(self, namespace: Place) -> str:
        self.events.append(("listen", namespace.cookie))
        await self.hold.wait()
        return "no names" if namespace.cookie in self.failing else ""

    def tell(self, *cookies: int, homes: dict[str, tuple[int, ...]] | None = None) -> None:
        entries = tuple(NamespaceEntry(cookie=cookie, inode=cookie + 100, path="") for cookie in cookies)
        self.inhabited.tell(Namespaces(namespaces=entries, homes=homes or {}))

    async def open(self) -> None:
        class Nobody:
            def namespaces(self, *_: object, **__: object) -> int:
                return 0

            def inhabited(self) -> set[object]:
                return set()

        doors: Any = object()  # they are handed on to ``listen``
        await self.inhabited.open(doors, Nobody(), lambda states: self.events.append(("report", states)))  # type: ignore[arg-type]


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            scene = Scene(monkeypatch)
            await story(scene)
            scene.inhabited.close()
            scene.poller.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def told(*cookies: int, problem: str = "") -> tuple[str, tuple[NamespaceState, ...]]:
    return ("report", tuple(NamespaceState(cookie=c, listening=False, problem=problem) for c in cookies))


def test_a_namespace_can_be_connected_into_from_the_moment_it_is_named() -> None:
    async def story(scene: Scene) -> None:
        scene.tell(7, 8, homes={"web": (8,)})
        assert scene.inhabited.of("web", ADDRESS) is not None
        assert scene.events == [("enter", 7), ("enter", 8)]

    play(story)


def test_all_are_entered_before_any_is_listened_in_and_that_is_reported_before_it_is_open() -> None:
    async def story(scene: Scene) -> None:
        scene.tell(7, 8)
        await scene.open()
        assert scene.events == [("enter", 7), ("enter", 8), ("listen", 7), ("listen", 8), told(7, 8)]

    play(story)


def test_one_that_is_named_while_others_are_opened_is_part_of_the_same_report() -> None:
    async def story(scene: Scene) -> None:
        scene.hold.clear()
        scene.tell(7)
        opening = asyncio.ensure_future(scene.open())
        while ("listen", 7) not in scene.events:
            await asyncio.sleep(0)
        scene.tell(7, 9, homes={"db": (9,)})
        assert scene.inhabited.of("db", ADDRESS) is not None
        scene.hold.set()
        await opening
        assert scene.events[2:] == [("enter", 9), ("listen", 9), told(7, 9)]

    play(story)


def test_what_cannot_be_entered_is_reported_and_hinders_nothing_else() -> None:
    async def story(scene: Scene) -> None:
        scene.missing = {7}
        scene.tell(7, 8, homes={"web": (7,)})
        with pytest.raises(HomelessError, match="gone already"):
            scene.inhabited.of("web", ADDRESS)
        await scene.open()
        (report,) = [event for event in scene.events if event[0] == "report"]
        assert [state.problem for state in report[1]] == ["gone already", ""]
        scene.missing = set()
        scene.inhabited.bring_about()
        while [event[0] for event in scene.events].count("report") < 2:
            await asyncio.sleep(0)
        assert scene.inhabited.of("web", ADDRESS) is not None

    play(story)


def test_what_stays_wrong_is_tried_once_a_round() -> None:
    async def story(scene: Scene) -> None:
        scene.failing = {7}
        scene.tell(7)
        await scene.open()
        assert scene.events == [("enter", 7), ("listen", 7), told(7, problem="no names")]

    play(story)


def test_one_that_is_let_go_while_it_is_opened_is_left() -> None:
    async def story(scene: Scene) -> None:
        scene.hold.clear()
        scene.tell(7)
        opening = asyncio.ensure_future(scene.open())
        while ("listen", 7) not in scene.events:
            await asyncio.sleep(0)
        scene.tell()
        scene.hold.set()
        await opening
        assert scene.events[-1] == told()

    play(story)
