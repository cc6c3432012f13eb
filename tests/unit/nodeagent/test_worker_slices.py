"""A worker that is given a large mesh goes on serving its connections: counted in steps of work, not in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from nodeagent import channel
from nodeagent.manager import parting
from nodeagent.slices import SLICE_SECONDS, STEP_SECONDS, Slices
from nodeagent.state.view import NodeState
from nodeagent.worker.worker import Worker
from tests.support.objects import delta, gone, policy, service, snapshot, workload

MANY = 2000
STEPS_OF_A_SLICE = round(SLICE_SECONDS / STEP_SECONDS)


class Counted:
    """Stands still, but for each look at it: a step ends with one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += STEP_SECONDS
        return self.now


class Answers(asyncio.Transport):
    """Keeps what the worker says."""

    def __init__(self) -> None:
        super().__init__()
        self.unpacker, self.heard = channel.Unpacker(), list[channel.Message]()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.heard += self.unpacker.feed(bytes(data))

    def is_closing(self) -> bool:
        return False


class Scene:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock, self.transport = Counted(), Answers()
        self.worker = Worker(loop)
        self.worker._slices = Slices(loop.call_soon, self.clock)
        self.worker.connection_made(self.transport)

    @property
    def state(self) -> NodeState:
        return self.worker.state

    def applied(self) -> list[int]:
        return [message.revision for message in self.transport.heard if isinstance(message, channel.BatchApplied)]

    async def until(self, found: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not found():
                await asyncio.sleep(0)


def crowd(**changes: object) -> list[object]:
    things: list[object] = [
        workload(f"w-{n}", addresses=(f"10.1.{n // 250}.{n % 250}",), **changes) for n in range(MANY)
    ]
    return [*things, service(endpoints=tuple(f"shop/w-{n}@1" for n in range(MANY)))]


def play(story: Callable[[Scene], asyncio.Future[None]]) -> None:
    async def run() -> None:
        scene = Scene(asyncio.get_running_loop())
        try:
            await story(scene)
        finally:
            await scene.worker.close()

    asyncio.run(run())


def test_an_open_connection_is_served_between_slices() -> None:
    async def story(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        for end in (near, far):
            end.setblocking(False)
        waits: list[int] = []
        loop.add_reader(far, lambda: far.send(far.recv(1)))

        async def play_ping_pong() -> None:
            while not scene.applied():
                before = scene.clock.looks
                near.send(b"x")
                assert await loop.sock_recv(near, 1) == b"x"
                waits.append(scene.clock.looks - before)

        game = asyncio.ensure_future(play_ping_pong())
        await asyncio.sleep(0)
        batch = snapshot(*crowd())  # type: ignore[arg-type]
        for part in parting.parts(batch, batch.changes):
            scene.worker.data_received(part)
            await asyncio.sleep(0)
        await scene.until(lambda: bool(scene.applied()))
        await game
        loop.remove_reader(far)
        near.close()
        far.close()
        assert scene.clock.looks > 2 * MANY / 16, "the work was there"
        # there and back are a few turns of the loop, each with a slice
        assert max(waits) <= 5 * (STEPS_OF_A_SLICE + 1), max(waits)
        assert len(waits) > 10

    play(story)  # type: ignore[arg-type]


def test_messages_behind_a_large_batch_keep_their_order_and_questions_do_not_wait() -> None:
    async def story(scene: Scene) -> None:
        batch = snapshot(*crowd())  # type: ignore[arg-type]
        scene.worker.data_received(b"".join(parting.parts(batch, batch.changes)))
        scene.worker.data_received(channel.pack(channel.EnrolmentUpdate(cgroups={"7": "shop/w-3@1"})))
        scene.worker.data_received(channel.pack(channel.Collect(number=5)))
        assert any(isinstance(message, channel.Collected) for message in scene.transport.heard)
        assert not scene.state.ready and not scene.worker.enrolled
        await scene.until(lambda: bool(scene.worker.enrolled))
        assert scene.state.ready and scene.applied() == [1]

    play(story)  # type: ignore[arg-type]


def test_a_small_change_behind_a_large_one_is_not_kept_by_what_follows_the_large_one() -> None:
    """The former state is freed after the small change, and is freed."""

    async def story(scene: Scene) -> None:
        first = snapshot(*crowd())  # type: ignore[arg-type]
        scene.worker.data_received(b"".join(parting.parts(first, first.changes)))
        await scene.until(lambda: scene.applied() == [1])
        former = scene.state.tables
        second = delta(*crowd(node="node-b"), revision=2)  # type: ignore[arg-type]
        scene.worker.data_received(b"".join(parting.parts(second, second.changes)))
        scene.worker.data_received(channel.pack(channel.StateBatch(batch=delta(policy(), revision=3))))
        await scene.until(lambda: scene.applied() == [1, 2, 3])
        assert len(former.workloads) == MANY, "nothing of it is freed yet"
        await scene.until(lambda: not former.workloads and former.by_ip is None)
        assert len(scene.state.workloads()) == MANY

    play(story)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 40])
def test_a_small_batch_is_in_force_at_once(count: int) -> None:
    async def story(scene: Scene) -> None:
        scene.worker.data_received(channel.pack(channel.StateBatch(batch=snapshot(workload()))))
        many = [workload(f"x-{number}") for number in range(count)]
        before = scene.clock.looks
        scene.worker.data_received(channel.pack(channel.StateBatch(batch=delta(*many, gone(workload()), revision=2))))
        await scene.until(lambda: scene.applied() == [1, 2])
        assert scene.clock.looks - before <= 12

    play(story)  # type: ignore[arg-type]
