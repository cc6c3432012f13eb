from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.codec.lines import read_whole
from control.wire.watch import Batch
from nodeagent.client import session as module
from nodeagent.client.session import (
    BACKOFF_MAX_SECONDS,
    CONNECT_SECONDS,
    SILENCE_SECONDS,
    Connect,
    Position,
    Read,
    Session,
    SessionError,
    SessionPhase,
    Wait,
)
from tests.support.objects import delta, line, snapshot, workload


def streaming(now: float = 0.0) -> Session:
    session = Session(lambda: 0.0)
    session.action(now)
    session.opened(now)
    return session


def apply(session: Session, data: bytes, now: float = 0.0) -> list[Batch]:
    batches = [read_whole(found) for found in session.received(data, now)]
    for batch in batches:
        session.check(batch)
        session.applied(batch)
    return batches


def test_the_first_connection_is_made_at_once_and_asks_for_a_snapshot() -> None:
    assert Session(lambda: 0.0).action(5.0) == Connect(None, 5.0 + CONNECT_SECONDS)


def test_it_resumes_after_the_last_batch_that_was_applied() -> None:
    session = streaming()
    apply(session, line(snapshot(revision=7)) + line(delta(revision=9)))
    session.received(line(delta(revision=12)), 0.0)  # received, but never applied
    session.lost("broken", 0.0)
    action = session.action(100.0)
    assert isinstance(action, Connect)
    assert action.position == Position("history-1", 9)


def test_state_from_disk_is_resumed() -> None:
    session = Session(lambda: 0.0)
    session.resume(Position("i", 3))
    action = session.action(0.0)
    assert isinstance(action, Connect)
    assert action.position == Position("i", 3)


@given(st.lists(st.integers(min_value=1, max_value=40)))
def test_lines_may_be_cut_anywhere(sizes: list[int]) -> None:
    batches = [snapshot(workload(), revision=1), delta(revision=2), delta(workload("x"), revision=3)]
    data = b"".join(line(batch) for batch in batches) + b"\n"
    session, found = streaming(), []
    for size in [*sizes, len(data)]:
        found += apply(session, data[:size])
        data = data[size:]
    assert found == batches


def test_silence_ends_a_connection_and_a_heartbeat_does_not() -> None:
    session = streaming(now=10.0)
    assert session.action(10.0) == Read(10.0 + SILENCE_SECONDS)
    apply(session, line(snapshot()), now=20.0)
    assert session.action(20.0) == Read(20.0 + SILENCE_SECONDS)


def test_waits_grow_to_a_bound_and_start_again_after_success() -> None:
    session = Session(lambda: 0.0)
    waits, now = [], 0.0
    for _ in range(12):
        assert isinstance(session.action(now), Connect)
        session.lost("refused", now)
        action = session.action(now)
        assert isinstance(action, Wait)
        waits.append(action.until - now)
        now = action.until
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == BACKOFF_MAX_SECONDS
    session.action(now)
    session.opened(now)
    apply(session, line(snapshot()), now)
    session.lost("closed", now)
    action = session.action(now)
    assert isinstance(action, Wait)
    assert action.until == now + 0.5


def test_jitter_shortens_a_wait() -> None:
    session = Session(lambda: 0.999)
    session.action(0.0)
    session.lost("refused", 0.0)
    action = session.action(0.0)
    assert isinstance(action, Wait)
    assert 0.25 < action.until < 0.26


def test_hurry_ends_a_wait() -> None:
    session = Session(lambda: 0.0)
    session.action(0.0)
    session.lost("refused", 0.0)
    session.hurry()
    assert isinstance(session.action(0.0), Connect)


def test_what_the_driver_cannot_read_makes_the_next_connection_ask_for_a_snapshot() -> None:
    session = streaming()
    apply(session, line(snapshot()))
    assert "no batch" in str(session.refuse("control sent a line that is no batch"))
    session.lost("nonsense", 0.0)
    assert session.position is None


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 1000)
    session = streaming()
    session.received(b"x" * 900, 0.0)
    with pytest.raises(SessionError, match="more than 1000"):
        session.received(b"x" * 200, 0.0)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (delta(revision=4, instance="other"), "another history"),
        (delta(revision=4), "went back"),
    ],
)
def test_a_batch_that_cannot_follow_is_refused(batch: Batch, words: str) -> None:
    session = streaming()
    apply(session, line(snapshot(revision=5)))
    with pytest.raises(SessionError, match=words):
        session.check(batch)
    assert session.position is None, "the next connection asks for a snapshot"


def test_a_snapshot_may_follow_anything() -> None:
    session = streaming()
    apply(session, line(snapshot(revision=5)) + line(snapshot(revision=1, instance="restored")))
    assert session.position == Position("restored", 1)


def test_changes_before_any_snapshot_are_refused() -> None:
    with pytest.raises(SessionError, match="before any snapshot"):
        streaming().check(delta())


def test_half_a_line_does_not_survive_its_connection() -> None:
    session = streaming()
    session.received(line(snapshot())[:10], 0.0)
    session.lost("cut", 0.0)
    session.action(10.0)
    session.opened(10.0)
    assert apply(session, line(snapshot())) == [snapshot()]


@pytest.mark.parametrize("phase", list(SessionPhase))
def test_every_phase_can_be_left(phase: SessionPhase) -> None:
    assert any(source is phase for source, _ in module.TRANSITIONS)


def test_a_state_with_holes_asks_for_a_snapshot_again_and_again_but_ever_less_often() -> None:
    session = streaming()
    asked: list[int] = []
    for now in range(4000):
        apply(session, line(snapshot(revision=7)), now)
        try:
            session.verify(["policy shop/p"], now)
        except SessionError as error:
            asked.append(now)
            assert "policy shop/p" in str(error)
            assert session.position is None
            session.lost(str(error), now)
            session.hurry()
            session.action(now)
            session.opened(now)
    assert asked == [0, 30, 90, 210, 450, 930, 1830, 2730, 3630]


def test_once_all_is_there_the_next_hole_is_closed_at_once() -> None:
    session = streaming()
    with pytest.raises(SessionError):
        session.verify(["policy shop/p"], 0.0)
    session.verify(["policy shop/p"], 1.0)
    session.verify((), 2.0)
    with pytest.raises(SessionError):
        session.verify(["policy shop/q"], 3.0)
