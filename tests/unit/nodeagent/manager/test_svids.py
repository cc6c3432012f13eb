from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from control.wire.ids import SpiffeId
from nodeagent.channel import Svid
from nodeagent.client.issuer import IssueError
from nodeagent.client.statefile import StateDirectory, StoredSvid
from nodeagent.identity.keys import SvidMaterial, load_svid, new_request
from nodeagent.manager.svids import MAX_REQUESTS, SvidKeeper
from tests.support import pki

WEB, CLIENT = pki.WEB, pki.CLIENT


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path / "state")
    yield directory
    directory.close()


class FakeIssuer:
    """Signs at once, unless told to refuse."""

    def __init__(self) -> None:
        self.root = pki.make_root()
        self.refuse: dict[str, str] = {}
        self.lifetime = timedelta(hours=24)
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def issue(self, identity: str) -> SvidMaterial:
        self.asked.append(identity)
        if self.gate is not None:
            await self.gate.wait()
        if identity in self.refuse:
            raise IssueError(self.refuse[identity])
        request = new_request(SpiffeId.parse(identity))
        return load_svid(pki.sign_csr(self.root, request.csr_pem, lifetime=self.lifetime), request.key_pem)


class Scene:
    def __init__(self, directory: StateDirectory) -> None:
        self.issuer = FakeIssuer()
        self.published: list[Svid] = []
        self.news = asyncio.Event()
        self.keeper = SvidKeeper(self.issuer, directory, self.publish)

    def publish(self, svid: Svid) -> None:
        self.published.append(svid)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0)


def play(directory: StateDirectory, story: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def run() -> Scene:
        scene = Scene(directory)
        task = asyncio.ensure_future(scene.keeper.run())
        try:
            await story(scene)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0)
        return scene

    return asyncio.run(asyncio.wait_for(run(), 30))


def test_every_wanted_identity_gets_an_svid_that_is_kept_on_disk(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.keeper.want([WEB, CLIENT])
        await scene.until(lambda: len(scene.published) == 2)

    scene = play(directory, story)
    assert {svid.identity for svid in scene.published} == {WEB, CLIENT}
    assert all(load_svid(svid.chain, svid.key) for svid in scene.published)
    assert {stored.identity for stored in directory.load_svids()} == {WEB, CLIENT}
    assert scene.keeper.renewals == {WEB: 1, CLIENT: 1}


def test_an_svid_on_disk_is_used_without_asking(directory: StateDirectory) -> None:
    leaf = pki.make_svid(pki.make_root(), WEB)
    directory.save_svid(StoredSvid(identity=WEB, chain=leaf.chain_pem, key=leaf.key_pem))

    async def story(scene: Scene) -> None:
        scene.keeper.restore()
        assert scene.published == [], "not before the identity is wanted"
        scene.keeper.want([WEB])
        await asyncio.sleep(0)

    scene = play(directory, story)
    assert scene.published == [Svid(identity=WEB, chain=leaf.chain_pem, key=leaf.key_pem)]
    assert scene.issuer.asked == []


@pytest.mark.parametrize("name", ["expired", "CA flag"])
def test_an_svid_on_disk_that_is_no_good_is_replaced(directory: StateDirectory, name: str) -> None:
    leaf = pki.BAD_SVIDS[name](pki.make_root())
    directory.save_svid(StoredSvid(identity=WEB, chain=leaf.chain_pem, key=leaf.key_pem))

    async def story(scene: Scene) -> None:
        scene.keeper.restore()
        scene.keeper.want([WEB])
        await scene.until(lambda: bool(scene.published))

    scene = play(directory, story)
    assert scene.issuer.asked == [WEB]


def test_a_refusal_is_told_and_the_others_are_served(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.issuer.refuse[WEB] = "not placed on this node"
        scene.keeper.want([WEB, CLIENT])
        await scene.until(lambda: bool(scene.published) and bool(scene.keeper.failures))

    scene = play(directory, story)
    assert [svid.identity for svid in scene.published] == [CLIENT]
    web = next(status for status in scene.keeper.statuses() if status.identity == WEB)
    assert (web.usable, web.last_error, web.failures) == (False, "not placed on this node", 1)


def test_an_identity_that_is_not_wanted_any_more_goes_from_workers_and_disk(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.keeper.want([WEB])
        await scene.until(lambda: bool(scene.published))
        scene.keeper.want([])

    scene = play(directory, story)
    assert scene.published[-1] == Svid(identity=WEB, chain="", key="")
    assert directory.load_svids() == []
    assert scene.keeper.statuses() == []


def test_an_answer_that_comes_too_late_is_not_handed_out(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.issuer.gate = asyncio.Event()
        scene.keeper.want([WEB])
        await scene.until(lambda: bool(scene.issuer.asked))
        scene.keeper.want([])
        scene.issuer.gate.set()
        for _ in range(5):
            await asyncio.sleep(0)

    scene = play(directory, story)
    assert [svid.chain for svid in scene.published] == [""]
    assert directory.load_svids() == []


def test_requests_under_way_are_bounded(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.issuer.gate = asyncio.Event()
        scene.keeper.want([f"spiffe://mesh.internal/ns/shop/sa/s{number}" for number in range(3 * MAX_REQUESTS)])
        await scene.until(lambda: len(scene.issuer.asked) >= MAX_REQUESTS)
        await asyncio.sleep(0)
        assert len(scene.issuer.asked) == MAX_REQUESTS
        scene.issuer.gate.set()
        await scene.until(lambda: len(scene.published) == 3 * MAX_REQUESTS)

    play(directory, story)


def test_a_short_lived_svid_is_renewed_with_another_key(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.issuer.lifetime = timedelta(seconds=3)
        scene.keeper.want([WEB])
        await scene.until(lambda: len(scene.published) >= 2)

    scene = play(directory, story)
    assert scene.published[0].key != scene.published[1].key
    assert all(svid.chain for svid in scene.published[:2]), "the former one is in use until the new one comes"


def test_an_svid_that_expires_is_taken_away(directory: StateDirectory) -> None:
    async def story(scene: Scene) -> None:
        scene.issuer.lifetime = timedelta(seconds=2)
        scene.keeper.want([WEB])
        await scene.until(lambda: len(scene.published) == 1)
        scene.issuer.refuse[WEB] = "control is down"
        await scene.until(lambda: len(scene.published) >= 2)

    scene = play(directory, story)
    assert scene.published[1] == Svid(identity=WEB, chain="", key="")
    assert not scene.keeper.statuses()[0].usable
