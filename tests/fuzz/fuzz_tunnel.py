"""A peer that says anything at all gets PeerError or is served; nothing else is ever raised, and what it leaves
behind is bounded.

Three kinds of peer: one that speaks noise, one that speaks a true conversation with octets changed, cut out and
repeated, and one that speaks well-formed frames without sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nodeagent.http2 import frames
from nodeagent.http2.errors import ErrorCode, PeerError
from nodeagent.http2.limits import MAX_CONTROL_WAITING, SERVER_STREAMS
from nodeagent.http2.table import Role
from nodeagent.http2.windows import MAX_STREAM_WINDOW, WindowBudget
from tests.support.tunnel import (
    OK_BLOCK,
    REQUEST_BLOCK,
    SETTLED,
    End,
    Pair,
    data_frame,
    frame,
    octets,
    raw_block,
    whole,
)

fuzzed = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
ROLES = st.sampled_from(list(Role))
CUTS = st.sampled_from([whole, octets])
BUDGET = 2**20

U32 = st.one_of(st.integers(0, 10), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 65_535]), st.integers(0, 2**32 - 1))
STREAMS = st.one_of(st.integers(0, 9), U32)
BLOCKS = st.one_of(
    st.sampled_from(
        [REQUEST_BLOCK, OK_BLOCK, raw_block(("a", "b")), b"", b"\x80", b"\x82\x84\xbe", b"\x20\x3f\xe1\x1f"]
    ),
    st.binary(max_size=80),
)
KINDS = st.one_of(st.integers(0, 9), st.integers(0, 255))
FLAGS = st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]), st.integers(0, 255))


def _four(values: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return values.map(lambda value: value.to_bytes(4))


FRAMES = st.one_of(
    st.builds(frame, KINDS, FLAGS, STREAMS, st.binary(max_size=60)),
    st.builds(frame, st.sampled_from([frames.HEADERS, frames.CONTINUATION]), FLAGS, STREAMS, BLOCKS),
    st.builds(frame, st.just(frames.DATA), FLAGS, STREAMS, st.one_of(st.binary(max_size=60), st.just(bytes(20_000)))),
    st.builds(frame, st.sampled_from([frames.RST_STREAM, frames.WINDOW_UPDATE]), FLAGS, STREAMS, _four(U32)),
    st.builds(frames.settings, st.dictionaries(st.integers(0, 9), U32, max_size=5)),
    st.builds(frame, st.just(frames.GOAWAY), FLAGS, STREAMS, st.builds(bytes.__add__, _four(U32), _four(U32))),
    st.builds(frames.headers, st.sampled_from([1, 3, 5, 7]), st.just(REQUEST_BLOCK)),
    st.builds(frames.headers, st.sampled_from([1, 3, 5, 7]), st.just(OK_BLOCK)),
    st.builds(
        data_frame,
        st.sampled_from([1, 3, 5, 7]),
        st.binary(max_size=20),
        end=st.booleans(),
        padding=st.integers(0, 255),
    ),
    st.builds(frames.window_update, st.sampled_from([0, 1, 3, 5]), U32.map(lambda value: value & 0x7FFF_FFFF)),
)


def survives(end: End, said: Iterable[bytes], *, reads: bool = True) -> None:
    """Hear it out as the owner of a connection would, to the end or to the peer's mistake."""
    try:
        for piece in said:
            end.hear(piece)
            if reads and end.output_waits:
                end.take()
    except PeerError as error:
        assert isinstance(error.code, ErrorCode) and error.code is not ErrorCode.NO_ERROR
        assert str(error).isprintable()
        end.connection.go_away(error.code, str(error))
    connection = end.connection
    assert len(connection.streams) <= SERVER_STREAMS
    assert connection.output.control_waiting <= MAX_CONTROL_WAITING + 2
    assert len(connection._reader._rest) <= frames.MAX_CONTROL_FRAME + frames.HEADER_BYTES
    assert len(connection._control._block) <= 2 * frames.MAX_CONTROL_FRAME
    for receiver in end.receivers.values():
        assert receiver.unread <= MAX_STREAM_WINDOW
    connection.abandon(ErrorCode.INTERNAL_ERROR)
    assert connection.streams == {} and not connection.output.waiting
    assert sorted(end.closed) == sorted(end.receivers)
    assert connection.table.budget.left == BUDGET
    end.take()


def an_end(role: Role, *, reads: bool = True) -> End:
    """An end with a little going on: two streams, one of which has more to say than it may."""
    end = End(role, reads=reads, budget=WindowBudget(BUDGET))
    if role is Role.CLIENT:
        end.open().stream.send(bytes(100_000))
        end.open().stream.end()
        end.take()
    return end


@fuzzed
@given(ROLES, st.binary(max_size=400), CUTS, st.booleans())
def test_noise(role: Role, noise: bytes, cut, greets: bool) -> None:  # type: ignore[no-untyped-def]
    greeting = (frames.PREFACE if role is Role.SERVER else b"") + SETTLED if greets else b""
    survives(an_end(role), [greeting, *cut(noise)])


@fuzzed
@given(ROLES, st.lists(FRAMES, max_size=40), st.booleans(), st.booleans(), st.integers(1, 60))
def test_frames_without_sense(role: Role, said: list[bytes], writes: bool, reads: bool, step: int) -> None:
    wire = (frames.PREFACE if role is Role.SERVER else b"") + SETTLED + b"".join(said)
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)] if len(wire) < 4000 else [wire]
    survives(an_end(role, reads=reads), pieces, reads=writes)


def _conversation(role: Role) -> bytes:
    """All that a peer of this end says in a session with a bit of everything."""
    pair = Pair()
    wires = {Role.CLIENT: bytearray(), Role.SERVER: bytearray()}

    def noted(end: End, wire: bytearray) -> None:
        take = end.take

        def taken() -> bytes:
            data = take()
            wire.extend(data)
            return data

        end.take = taken  # type: ignore[method-assign]

    noted(pair.client, wires[Role.CLIENT])
    noted(pair.server, wires[Role.SERVER])
    near, far = pair.opened()
    near.stream.send(b"hello" * 10)
    far.stream.send(bytes(300))
    pair.flow()
    second, _ = pair.opened()
    second.stream.send(b"x")
    pair.client.connection.ping()
    pair.server.connection.ping()
    pair.flow()
    second.stream.reset()
    near.stream.end()
    pair.flow()
    far.stream.end()
    pair.opened()
    pair.server.connection.go_away(text="bye")
    pair.flow()
    return bytes(wires[Role.SERVER if role is Role.CLIENT else Role.CLIENT])


CONVERSATIONS = {role: _conversation(role) for role in Role}
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "flip", "cut", "repeat", "insert"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def _changed(wire: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    data = bytearray(wire)
    for how, where, value in changes:
        at = int(where * max(len(data) - 1, 0))
        match how:
            case "set":
                data[at : at + 1] = bytes([value])
            case "flip" if data:
                data[at] ^= 1 << value % 8
            case "cut":
                del data[at : at + value]
            case "repeat":
                data[at:at] = data[at : at + value]
            case "insert":
                data[at:at] = bytes([value]) * (value % 20)
    return bytes(data)


@fuzzed
@given(ROLES, CHANGES, CUTS)
def test_a_true_conversation_with_changes(role: Role, changes: list[tuple[str, float, int]], cut) -> None:  # type: ignore[no-untyped-def]
    survives(an_end(role), cut(_changed(CONVERSATIONS[role], changes)))


def _cuts(wire: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield wire[at : at + size]
        at += size
    yield wire[at:]


def _told(role: Role, pieces: Iterable[bytes]) -> object:
    end = an_end(role)
    mistake = None
    try:
        for piece in pieces:
            end.hear(piece)
    except PeerError as error:
        mistake = (error.code, str(error))
    receivers = {n: (bytes(r.received), r.half_closed, r.reset_with, r.headers) for n, r in end.receivers.items()}
    return mistake, receivers, end.requests, end.closed, end.farewells, end.pongs


@fuzzed
@given(ROLES, st.one_of(st.just([]), CHANGES), st.lists(st.integers(0, 50), max_size=60))
@example(Role.SERVER, [], [1] * 2000)
@example(Role.CLIENT, [], [1] * 2000)
def test_where_it_was_cut_changes_nothing(role: Role, changes: list[tuple[str, float, int]], sizes: list[int]) -> None:
    wire = _changed(CONVERSATIONS[role], changes)
    whole_news, cut_news = _told(role, [wire]), _told(role, _cuts(wire, sizes))
    if whole_news[0] is None:  # type: ignore[index]
        assert whole_news == cut_news
    else:  # after the same mistake; what of a broken frame was delivered before it may differ
        assert whole_news[0] == cut_news[0]  # type: ignore[index]
