"""Messages between the manager and its workers, over a Unix stream socket pair.

Each message is four bytes of length (big endian), then JSON: ``{"type": <name>, ...fields}``. The manager speaks
first: ``Start``, ``SpliceExclusions`` if there are any, then a snapshot (``StateBatch``, in parts),
``EnrolmentUpdate``, ``Namespaces``, every ``Svid`` it has, and ``Begin``: nothing is accepted before. From then on it
sends whatever changes. The worker answers ``Begin`` with ``Ready`` once everything before it has been applied and its
listeners are open; each batch with ``BatchApplied``, ``EnrolmentUpdate`` with ``Heard``, ``Namespaces`` with
``Inside``, and each ``Collect`` and ``ListFlows`` by its number.

A reader ignores and counts a message whose type it does not know, or that it cannot read, because a process of another
version may have sent it; but not one that narrows what is allowed (``"narrows": true``, see NARROWING): to go on
without such a message would allow what the sender forbids.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from control.codec.lines import EncodedBatch, decoded, encoded
from control.codec.values import DecodeError, from_json, to_json
from control.wire.watch import Batch
from nodeagent.limits.settings import Limits
from nodeagent.telemetry.samples import CounterSample, GaugeSample, HistogramSample, Sample

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""More than this is a defect, not a message: the largest is a part of a batch of one very large object."""
MAX_UNKNOWN_TYPES = 32
"""Types of messages that are not known are counted apart up to this many of them."""
_LENGTH = struct.Struct("!I")


class ChannelError(Exception):
    """The other end sent what is not a message: a defect of the agent itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a worker is to run; the first message. Addresses are text, ports numbers; 0 workers never occur."""

    node: str
    index: int
    outbound_port: int
    tunnel_port: int
    tunnel_addresses: tuple[str, ...]
    """Where to listen for tunnels: ``::`` is dual stack, ``0.0.0.0`` IPv4 only."""
    pin_dir: str
    """Where the BPF maps are pinned; empty: no capture (only tunnels are served)."""
    access_log: str
    """``stdout``, ``off`` or a path."""
    log_level: str = "info"
    cluster: str = ""
    inbound_port: int = 15006
    """Where the kernel brings plaintext from outside the mesh."""
    splice: bool = False
    """Whether same-node flows may be handed to the kernel; the manager has tested that it can, or still tests it and
    keeps everybody out meanwhile (``SpliceExclusions``)."""
    dns_port: int = 0
    """The first UDP port for DNS questions; 0: they are left alone."""
    resolv_conf: str = "/etc/resolv.conf"
    """Names the resolvers for hosts outside the mesh."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBatch:
    """A batch of the watch, or a part of one; objects are the bytes that control sent."""

    batch: Batch
    more: bool = False
    """Further parts of the same batch follow at once. Nothing of it is in force before the last part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """The key and chain of an identity (PEM), new or renewed; an empty chain takes the identity away."""

    identity: str
    chain: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentUpdate:
    """Every enrolled cgroup and the uid of its workload. Keys are cgroup ids in decimal (JSON knows no int keys)."""

    cgroups: dict[str, str]
    edition: int = 0
    """Counts the enrolments that the manager has sent; a worker repeats it in ``Heard``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A worker's answer to EnrolmentUpdate: connections are judged by this edition from now on."""

    edition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Everything that the manager knows has been sent: open the listeners, then answer Ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpliceExclusions:
    """Every workload of the node (uid) whose flows stay in the relay because one of theirs got stuck, and why."""

    workloads: dict[str, str]
    everybody: str = ""
    """Why the flows of all others do too; empty: they do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpliceStuck:
    """A flow of these workloads got stuck in this worker's splice, and why; the manager tells all workers."""

    workloads: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Departed:
    """These enrolled cgroups do not exist any more: connections that their processes took elsewhere end."""

    cgroups: dict[str, str]
    """Cgroup id in decimal -> uid of its workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceEntry:
    """A network namespace that enrolled processes live in, and that the worker is to listen in."""

    cookie: int
    inode: int
    path: str
    """Where to open it; whoever does compares the cookie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Every network namespace but the agent's own. One that was in the message before and is not in this one is to be
    let go of."""

    namespaces: tuple[NamespaceEntry, ...]
    homes: dict[str, tuple[int, ...]]
    """uid of a workload -> cookies of the namespaces that its processes are in; -1: it had its own, and no process of
    it lives. A workload that is not named lives in the agent's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceState:
    """What a worker made of a namespace."""

    cookie: int
    listening: bool
    """Whether captured connections are accepted in it."""
    answering: bool = False
    """Whether DNS questions are."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A worker's answer to Namespaces, and again when something about it changes."""

    states: tuple[NamespaceState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Asks for the worker's metric samples."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFlows:
    """Asks for the worker's live connections and tunnels."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """New connections go to so many of the workers; every worker is told, any of them puts it in force."""

    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy a worker is: open connections, and processor seconds since it started. Sent every second or so."""

    flows: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Stop accepting; let live connections end, for at most this many seconds; then say Drained and exit."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The last word of a worker's start: it has applied what was sent before ``Begin`` (state, SVIDs), has entered the
    network namespaces of workloads, and accepts connections."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchApplied:
    """The worker decides by this revision now, and its live connections were checked against it."""

    revision: int
    rejected: tuple[str, ...] = ()
    """Items of the batch that could not be read, each with what was wrong; what they name is denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The answer to Collect: the worker's metrics, by kind."""

    number: int
    counters: tuple[CounterSample, ...] = ()
    gauges: tuple[GaugeSample, ...] = ()
    histograms: tuple[HistogramSample, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them."""
        return (*self.counters, *self.gauges, *self.histograms)


def collected(number: int, samples: Iterable[Sample]) -> Collected:
    """The message with these samples."""
    found = tuple(samples)
    return Collected(
        number=number,
        counters=tuple(item for item in found if isinstance(item, CounterSample)),
        gauges=tuple(item for item in found if isinstance(item, GaugeSample)),
        histograms=tuple(item for item in found if isinstance(item, HistogramSample)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowList:
    """The answer to ListFlows: one JSON object a connection and one a tunnel."""

    number: int
    flows: tuple[dict[str, Any], ...] = ()
    tunnels: tuple[dict[str, Any], ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """No connection is left (or the time is over); the worker exits."""

    cut: int = field(default=0)
    """Connections that were still open when the time was over, and were reset."""


Message = (
    Start
    | Begin
    | Heard
    | StateBatch
    | Svid
    | EnrolmentUpdate
    | SpliceExclusions
    | SpliceStuck
    | Departed
    | Namespaces
    | Inside
    | Collect
    | ListFlows
    | Spread
    | Load
    | Drain
    | Ready
    | BatchApplied
    | Collected
    | FlowList
    | Drained
)
_TYPES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Start, Begin, Heard, StateBatch, Svid, EnrolmentUpdate, SpliceExclusions, SpliceStuck, Departed, Namespaces,
        Inside, Collect, ListFlows, Spread, Load, Drain,
        Ready, BatchApplied, Collected, FlowList, Drained,
    )
}  # fmt: skip
NARROWING: frozenset[type[Any]] = frozenset({Start, StateBatch, Svid, SpliceExclusions, Departed, Drain})
"""To ignore one of these would leave something allowed, or running, that is to end: its receiver stops instead."""


@dataclass(frozen=True, slots=True)
class _Envelope:
    type: str
    narrows: bool = False


@dataclass(frozen=True, slots=True)
class _Body:
    """A StateBatch on the channel."""

    batch: EncodedBatch
    more: bool = False
    type: str = "StateBatch"
    narrows: bool = True


def pack(message: Message) -> bytes:
    """The message as bytes for the channel."""
    if isinstance(message, StateBatch):
        batch = message.batch
        changes = tuple(encoded(change) for change in batch.changes)
        body = to_json(_Body(EncodedBatch(batch.instance, batch.revision, batch.snapshot, changes), message.more))
    else:
        narrows = b',"narrows":true' if type(message) in NARROWING else b""
        fields = to_json(message)[1:]  # every message but an empty one goes on with a comma
        comma = b"" if fields == b"}" else b","
        body = b'{"type":"%s"%s%s%s' % (type(message).__name__.encode(), narrows, comma, fields)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Bytes in, messages out; feed it whatever arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.ignored: Counter[str] = Counter()
        """Messages that were not understood and narrow nothing, by their type."""

    def feed(self, data: bytes) -> list[Message]:
        """Every message that is complete now; ChannelError if the bytes are not messages, or one that narrows what is
        allowed cannot be understood."""
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE_BYTES:
                raise ChannelError(f"a message of {length} bytes is over the bound of {MAX_MESSAGE_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            message = self._unpack(bytes(self._buffer[_LENGTH.size : end]))
            if message is not None:
                messages.append(message)
            del self._buffer[:end]
        return messages

    def _unpack(self, body: bytes) -> Message | None:
        try:
            envelope = from_json(_Envelope, body)
        except DecodeError as error:
            raise ChannelError(f"not a message: {error}") from error
        cls = _TYPES.get(envelope.type)
        try:
            if cls is None:
                raise DecodeError("its type is not known")
            return _state_batch(from_json(_Body, body)) if cls is StateBatch else from_json(cls, body)
        except DecodeError as error:
            if envelope.narrows or cls in NARROWING:
                raise ChannelError(f"{envelope.type} cannot be read: {error}") from error
            known = len(self.ignored) < MAX_UNKNOWN_TYPES or envelope.type in self.ignored
            self.ignored[envelope.type if known else "(others)"] += 1
            return None


def _state_batch(body: _Body) -> StateBatch:
    batch = Batch(
        instance=body.batch.instance, revision=body.batch.revision, snapshot=body.batch.snapshot,
        changes=decoded(body.batch.changes),
    )  # fmt: skip
    return StateBatch(batch=batch, more=body.more)
