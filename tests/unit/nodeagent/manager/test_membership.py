from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from control.wire.signing import JOIN_PATH, RENEW_PATH
from nodeagent.client.join import JoinError, NodeCredential
from nodeagent.client.statefile import StateDirectory
from nodeagent.manager import membership as module
from nodeagent.manager.membership import MAX_SLEEP_SECONDS, Membership, read_token
from nodeagent.waits.renewal import SHORTEST_SECONDS, SOON_SECONDS, WRONG_CLOCK_SECONDS
from tests.support import pki
from tests.support.fake_control import FakeControl
from tests.unit.nodeagent.client.test_join import NODE_ID, control_of, token


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path / "state")
    yield directory
    directory.close()


def credential(root: pki.Authority, node: str = "node-a", lifetime: timedelta = timedelta(hours=24)) -> NodeCredential:
    leaf = pki.make_svid(root, f"spiffe://mesh.internal/node/{node}", lifetime=lifetime)
    return NodeCredential(
        node=node, trust_domain="mesh.internal", chain=leaf.chain_pem, key=leaf.key_pem, roots=(root.pem,)
    )


class Clock:
    """This host's, ``ahead`` of control's by so many seconds."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def __call__(self) -> float:
        return time.time() + self.ahead


def play(
    fake: FakeControl,
    directory: StateDirectory,
    tokens: Callable[[], str],
    story: Callable[[Membership, Callable[[Callable[[], bool]], Awaitable[None]]], Awaitable[None]],
    later: float = 0.0,
) -> None:
    """``later``: seconds that pass between the start and the first look at the clock."""

    async def run() -> None:
        async with fake.running():
            clock = Clock()
            membership = Membership(fake.url, "node-a", tokens, directory, lambda: None, clock=clock)
            membership.restore()
            clock.ahead = later
            task = asyncio.ensure_future(membership.run())

            async def until(condition: Callable[[], bool]) -> None:
                while not condition():
                    assert not task.done()
                    await asyncio.sleep(0.005)

            try:
                await story(membership, until)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_it_joins_and_the_credential_is_on_disk(directory: StateDirectory) -> None:
    root = pki.make_root()

    async def story(membership: Membership, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await membership.transport()
        assert membership.credential == directory.load_credential()

    play(control_of(root), directory, lambda: token(root), story)


def test_it_waits_for_a_token_and_says_so(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKEN_POLL_SECONDS", 0.01)
    root, available = pki.make_root(), ""

    async def story(membership: Membership, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        nonlocal available
        await until(lambda: "meshctl token create --node node-a" in membership.error)
        available = token(root)
        await until(lambda: membership.credential is not None and not membership.error)

    play(control_of(root), directory, lambda: available, story)


def test_a_certificate_past_its_half_life_is_renewed(directory: StateDirectory) -> None:
    root = pki.make_root()
    fake = control_of(root)
    former = credential(root, lifetime=timedelta(minutes=2))  # its life began five minutes ago
    directory.save_credential(former)

    async def story(membership: Membership, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: membership.credential is not None and membership.credential.key != former.key)
        assert directory.load_credential() == membership.credential

    play(fake, directory, lambda: "", story, later=2 * SOON_SECONDS)
    assert fake.requests[0][0] == RENEW_PATH


def test_a_failed_renewal_keeps_what_there_is(directory: StateDirectory) -> None:
    root = pki.make_root()
    fake = control_of(root)
    fake.answers[RENEW_PATH] = lambda _: (500, {"title": "broken"})
    former = credential(root, lifetime=timedelta(minutes=2))
    directory.save_credential(former)

    async def story(membership: Membership, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: "broken" in membership.error)
        assert membership.credential == former

    play(fake, directory, lambda: "", story, later=2 * SOON_SECONDS)


HOUR = 3600.0


@pytest.mark.parametrize("off", [hours * HOUR for hours in (-24 * 365, -15, 0, 15, 23.99, 24, 24 * 365)])
@pytest.mark.parametrize("lifetime", [timedelta(hours=24), timedelta(seconds=2)], ids=["a day", "two seconds"])
def test_no_clock_and_no_lifetime_make_a_storm_of_renewals(
    directory: StateDirectory, off: float, lifetime: timedelta
) -> None:
    """Thirty steps of a node whose clock is off, each after the wait that the last one asked for."""
    root = pki.make_root()
    fake = control_of(root, lifetime=lifetime)

    async def run() -> None:
        clock = Clock(off)
        async with fake.running():
            membership = Membership(
                fake.url, "node-a", lambda: token(root), directory, lambda: None, clock=clock, draw=lambda: 0.0
            )
            waits = []
            for _ in range(30):
                waits.append(await membership._step())
                clock.ahead += waits[-1]
            await membership._close()
        paths = [path for path, _ in fake.requests]
        renewals = paths.count(RENEW_PATH)
        assert paths.count(JOIN_PATH) == 1
        assert min(waits) >= 0.8 * SHORTEST_SECONDS, "less the time that the step itself took"
        assert max(waits) <= MAX_SLEEP_SECONDS
        if off == 0 and lifetime > timedelta(hours=1):
            assert renewals == 0
        if off >= lifetime.total_seconds():
            assert renewals <= sum(waits) / WRONG_CLOCK_SECONDS + 1

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_node_whose_certificate_expired_by_its_clock_joins_again_if_it_cannot_renew(
    directory: StateDirectory,
) -> None:
    root = pki.make_root()
    fake = control_of(root)
    fake.answers[RENEW_PATH] = lambda _: (403, {"title": "expired"})
    former = credential(root)
    directory.save_credential(former)

    async def story(membership: Membership, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        await until(lambda: membership.credential is not None and membership.credential.key != former.key)

    play(fake, directory, lambda: token(root), story, later=25 * HOUR)
    assert [path for path, _ in fake.requests if path in (RENEW_PATH, JOIN_PATH)] == [RENEW_PATH, JOIN_PATH]


def test_a_directory_of_another_node_is_refused(directory: StateDirectory) -> None:
    directory.save_credential(credential(pki.make_root(), "node-b"))
    membership = Membership("https://127.0.0.1:1", "node-a", lambda: "", directory, lambda: None)
    with pytest.raises(JoinError, match="belongs to node 'node-b'"):
        membership.restore()


def test_an_expired_certificate_is_not_used(directory: StateDirectory) -> None:
    root = pki.make_root()
    leaf = pki.make_leaf(
        root,
        pki.LeafShape(
            uris=(NODE_ID,), not_before=pki.now() - timedelta(hours=2), not_after=pki.now() - timedelta(hours=1)
        ),
    )
    directory.save_credential(
        NodeCredential(
            node="node-a", trust_domain="mesh.internal", chain=leaf.chain_pem, key=leaf.key_pem, roots=(root.pem,)
        )
    )
    membership = Membership("https://127.0.0.1:1", "node-a", lambda: "", directory, lambda: None)
    membership.restore()
    assert membership.credential is None


def test_new_roots_are_believed_and_bad_ones_left_aside(directory: StateDirectory) -> None:
    root, second = pki.make_root(), pki.make_root()
    directory.save_credential(credential(root))

    async def story(membership: Membership, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        membership.trust((root.pem, second.pem))
        membership.trust(("nonsense",))
        assert membership.credential is not None
        assert membership.credential.roots == (root.pem, second.pem)
        loaded = directory.load_credential()
        assert loaded is not None
        assert loaded.roots == (root.pem, second.pem)

    play(control_of(root), directory, lambda: "", story)


def test_a_token_comes_from_the_setting_or_else_from_its_file(tmp_path: Path) -> None:
    assert read_token("t", tmp_path / "absent") == "t"
    assert read_token("", None) == read_token("", tmp_path / "absent") == ""
    (tmp_path / "token").write_text("  nm1.x\n")
    assert read_token("", tmp_path / "token") == "nm1.x"
