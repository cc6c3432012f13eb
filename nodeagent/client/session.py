"""The watch of control as a machine without I/O: bytes in, lines of NDJSON out, and when to connect, to wait, to
give up.

The driver asks ``action``, does it, and tells what happened. ``now`` is monotonic seconds, ``random`` gives [0, 1). A
batch counts only when the driver has ``applied`` it: the next connection resumes after the last one that was.

WAITING --due--> CONNECTING --opened--> STREAMING ^                 |                      | +----- lost ------+---
lost, silence ----+
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from control.wire.watch import HEARTBEAT_SECONDS, MAX_BATCH_BYTES, Batch
from nodeagent.waits.backoff import Backoff

SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
"""Nothing heard for this long: the connection is dead, whatever TCP thinks."""
CONNECT_SECONDS = 15.0
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 30.0
MAX_REASON_CHARACTERS = 500
REPAIR_FIRST_SECONDS = 30.0
REPAIR_MAX_SECONDS = 900.0
"""A state with holes is replaced by a snapshot at once; if that has them too, again after waits from FIRST to MAX."""


class SessionPhase(Enum):
    """What the machine is doing."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    STREAMING = "streaming"


class SessionEvent(Enum):
    """What may happen to it."""

    DUE = "due"
    OPENED = "opened"
    LOST = "lost"


TRANSITIONS: dict[tuple[SessionPhase, SessionEvent], SessionPhase] = {
    (SessionPhase.WAITING, SessionEvent.DUE): SessionPhase.CONNECTING,
    (SessionPhase.CONNECTING, SessionEvent.OPENED): SessionPhase.STREAMING,
    (SessionPhase.CONNECTING, SessionEvent.LOST): SessionPhase.WAITING,
    (SessionPhase.STREAMING, SessionEvent.LOST): SessionPhase.WAITING,
}
"""Every legal move; any other is a defect of the driver."""


class SessionError(Exception):
    """Control sent what is no batch, or one that cannot follow the last; the connection must be dropped."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where to resume: the last batch that was applied."""

    instance: str
    revision: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until this time, then ask again."""

    until: float


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the watch, at ``position`` (None: a snapshot), and be done by ``deadline``."""

    position: Position | None
    deadline: float


@dataclass(frozen=True, slots=True)
class Read:
    """Hand in what arrives; if nothing does until ``deadline``, the connection is lost."""

    deadline: float


Action = Wait | Connect | Read


class Session:
    """The watch of one agent; it lives as long as the agent."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._phase = SessionPhase.WAITING
        self._position: Position | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._backoff = Backoff(BACKOFF_FIRST_SECONDS, BACKOFF_MAX_SECONDS, random)
        self._due = float("-inf")
        self._heard = float("-inf")
        self._repair = Backoff(REPAIR_FIRST_SECONDS, REPAIR_MAX_SECONDS, random)
        self._repair_due = float("-inf")
        self.last_error = ""
        """Why the watch was last lost; empty while it is open."""

    @property
    def phase(self) -> SessionPhase:
        """What the machine is doing."""
        return self._phase

    @property
    def position(self) -> Position | None:
        """The last batch that was applied; None before the first."""
        return self._position

    def resume(self, position: Position | None) -> None:
        """State of that position is held already; call it before the first connection."""
        self._position = position

    def action(self, now: float) -> Action:
        """What to do now."""
        if self._phase is SessionPhase.WAITING:
            if now < self._due:
                return Wait(self._due)
            self._move(SessionEvent.DUE)
            self._heard = now
        if self._phase is SessionPhase.CONNECTING:
            return Connect(self._position, self._heard + CONNECT_SECONDS)
        return Read(self._heard + SILENCE_SECONDS)

    def opened(self, now: float) -> None:
        """Control accepted the watch."""
        self._move(SessionEvent.OPENED)
        self._heard = now

    def received(self, data: bytes, now: float) -> list[bytes]:
        """Every line that is complete now; the driver reads them (``control.codec.lines``), which may take long.
        SessionError: drop the connection and report it ``lost``."""
        self._heard = now
        self._buffer += data
        lines: list[bytes] = []
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            with memoryview(self._buffer) as view:
                line = bytes(view[:end])  # a snapshot is copied once
            del self._buffer[: end + 1]
            self._scanned = 0
            if line.strip():
                lines.append(line)
        self._scanned = len(self._buffer)
        if self._scanned > MAX_BATCH_BYTES:
            raise self.refuse(f"control sent a line of more than {MAX_BATCH_BYTES} bytes")
        return lines

    def check(self, batch: Batch) -> None:
        """Ask before applying: SessionError if the batch cannot follow what was applied last."""
        if batch.snapshot:
            return
        position = self._position
        if position is None:
            raise self.refuse("control sent changes before any snapshot")
        if batch.instance != position.instance:
            raise self.refuse("control sent changes of another history without a snapshot")
        if batch.revision < position.revision:
            raise self.refuse(f"control went back from revision {position.revision} to {batch.revision}")

    def applied(self, batch: Batch) -> None:
        """The batch is in force: resume after it, and trust this control again."""
        self._position = Position(batch.instance, batch.revision)
        self._backoff.reset()
        self.last_error = ""

    def verify(self, missing: Sequence[str], now: float) -> None:
        """Tell what the state that is in force lacks. SessionError if it should be replaced: drop the connection, the
        next one asks for a snapshot."""
        if not missing:
            self._repair.reset()
            self._repair_due = float("-inf")
        elif now >= self._repair_due:
            self._repair_due = now + self._repair.next()
            raise self.refuse(f"the state held lacks {', '.join(missing)}; asking for all of it")

    def refused(self) -> None:
        """A batch could not be applied: nothing that was held counts as a base any more, ask for a snapshot."""
        self._position = None

    def lost(self, reason: str, now: float) -> None:
        """The connection could not be made, failed, or ended."""
        self._move(SessionEvent.LOST)
        self._buffer.clear()
        self._scanned = 0
        self.last_error = reason[:MAX_REASON_CHARACTERS]
        self._due = now + self._backoff.next()

    def hurry(self) -> None:
        """Do not wait any longer: something changed that may make the next attempt succeed."""
        self._due = float("-inf")

    def _move(self, event: SessionEvent) -> None:
        self._phase = TRANSITIONS[self._phase, event]

    def refuse(self, why: str) -> SessionError:
        """The error to raise for what control sent; the next connection asks for a snapshot."""
        self._position = None
        return SessionError(why)
