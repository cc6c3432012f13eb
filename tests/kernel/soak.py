"""A soak of the splice: many flows at once whose receivers stop at random, for up to a minute, under senders at full
speed. What the kernel holds for each flow is looked at all the while, and every byte has to arrive.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nodeagent.splice.scratch import Scratch, ScratchFlow
from nodeagent.splice.splicer import Splicer
from tests.kernel.conftest import FAMILIES
from tests.kernel.splicing import Sender, SpliceLab, read_all

AT_ONCE: Final = 25
"""Rounds that run beside each other."""
LOOK_SECONDS: Final = 0.05
LONG: Final = 4.0
"""Seconds of a stall in whose second half a sender that has more to send is looked at."""
CERTAIN: Final = 20.0
"""... of which a sender has filled all that there is in the first half, however busy the machine is."""
LARGE: Final = 96 << 20
"""More than all that a flow may hold."""
SO_MEMINFO: Final = 55
MEMINFO: Final = struct.Struct("=9I")
"""sock_diag.h, SK_MEMINFO_*: receive memory, receive buffer, transmit memory, send buffer, forward allocation, queued
for sending, options, backlog, drops."""
OVERSHOOT: Final = 1 << 20
"""What the kernel takes beyond the buffers of four sockets: to each the message that is being handled."""


@dataclass
class Largest:
    """Of all that was seen; octets."""

    queue: int = 0
    """Of one direction of one flow in the splice, as its programs count it (4 KiB a message beside its bytes)."""
    held: int = 0
    """For one flow: the queue towards the reader that stops, and everything in its four sockets."""
    share: float = 0.0
    """``held`` as a part of what that flow was allowed at that moment."""
    bound: int = 0
    """What it was allowed then: the limit and its sockets' buffers."""
    node: int = 0
    """All queues of the node."""


@dataclass
class Counts:
    """Of all rounds."""

    rounds: int = 0
    octets: int = 0
    redirected: int = 0
    switches: int = 0
    """Times that a direction became SPLICED."""
    hand_overs: int = 0
    half_closes: int = 0
    stalls: int = 0
    stalled_seconds: float = 0.0
    longest_stall: float = 0.0
    held_senders: int = 0
    """Stalls of more than LONG in whose second half the sender, which had more to send, did not get on."""
    equal: int = 0
    """Streams whose SHA-256 was that of what was sent."""
    streams: int = 0
    errors: list[str] = field(default_factory=list)


class Soak:
    """``rounds`` rounds, each with stalls of ``stall_seconds`` at most; the first stops once for exactly that long."""

    def __init__(self, lab: SpliceLab, rounds: int, stall_seconds: float) -> None:
        self.lab = lab
        self.rounds = rounds
        self.stall_seconds = stall_seconds
        self.counts = Counts()
        self.largest = Largest()
        self._flows: dict[int, ScratchFlow] = {}
        self._lock = threading.Lock()
        self._looking = Splicer(lab.pins.path)  # one for each thread that asks
        lab.lab.stack.callback(self._looking.close)
        self._ends = threading.Event()

    def run(self) -> None:
        """Until every round is over."""
        self._charges_readers = self._sees_redirected()
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._round, range(self.rounds)))
        self.seconds = time.monotonic() - began
        self._ends.set()
        watcher.join()

    def _sees_redirected(self) -> bool:
        """Whether this kernel has what was redirected in its reader's receive memory (since 6.13 or so)."""
        size = 100_000
        with self._making(0) as flow:
            flow.warm_up()
            flow.client.sendall(bytes(size))
            return _meminfo(flow.server)[0] >= size

    def _round(self, seed: int) -> None:
        try:
            Round(self, seed).run()
        except Exception as error:  # one round's failure is told beside the others'
            with self._lock:
                self.counts.errors.append(f"round {seed}: {error!r}")

    @contextmanager
    def flow(self, seed: int) -> Iterator[ScratchFlow]:
        """A spliced flow that is watched; nothing of it gives up while it waits."""
        patience = 2 * self.stall_seconds + 120
        with self._making(seed) as flow:
            for end in (flow.client, flow.server, *flow.agent.ends):
                end.settimeout(patience)
            flow.warm_up()
            self._flows[seed] = flow
            try:
                yield flow
            finally:
                del self._flows[seed]

    @contextmanager
    def _making(self, seed: int) -> Iterator[ScratchFlow]:
        family, pins = FAMILIES[seed % len(FAMILIES)], self.lab.pins.path
        with (
            closing(Splicer(pins)) as splicer,
            closing(Scratch(pins, splicer)) as scratch,
            scratch.flow(family.af, family.loopback) as flow,
        ):
            yield flow

    def count(self, **more: float) -> None:
        """Add to the counts."""
        with self._lock:
            for name, value in more.items():
                before = getattr(self.counts, name)
                setattr(self.counts, name, max(before, value) if name == "longest_stall" else before + value)

    def _watch(self) -> None:
        while not self._ends.wait(LOOK_SECONDS):
            self.largest.node = max(self.largest.node, self.lab.controller.queued())
            for flow in list(self._flows.values()):
                self._look(flow)

    def _look(self, flow: ScratchFlow) -> None:
        ways = self._looking.look(flow.agent.flow or 0)
        try:
            sockets = [_meminfo(end) for end in (flow.client, flow.server, *flow.agent.ends)]
        except OSError:  # it ends
            return
        if ways is None:
            return
        queues = [max(0, way["charged"]) for way in ways]
        held = queues[0] + sum(received + queued + backlog for received, _, _, queued, backlog in sockets)
        if self._charges_readers:  # they are in both
            held -= sum(max(0, way["tail"] - way["consumed"]) for way in ways)
        bound = self.lab.controller.limit + sum(room + space for _, room, space, _, _ in sockets) + OVERSHOOT
        largest = self.largest
        largest.queue = max(largest.queue, *queues)
        largest.share = max(largest.share, held / bound)
        if held > largest.held:
            largest.held, largest.bound = held, bound

    def check(self) -> None:
        """AssertionError names what was not as it has to be."""
        counts, largest = self.counts, self.largest
        assert not counts.errors, counts.errors
        assert counts.rounds == self.rounds
        assert counts.equal == counts.streams
        assert largest.queue <= self.lab.controller.limit, largest
        assert largest.share <= 1, largest
        assert largest.node <= self.lab.controller.cap, largest
        assert counts.held_senders or self.stall_seconds < CERTAIN, "no sender was seen to be held"
        assert counts.longest_stall >= self.stall_seconds
        assert counts.redirected > counts.octets // 4, "most of it was relayed"

    def report(self) -> dict[str, Any]:
        """Plain data."""
        counts = {name: round(v, 1) if isinstance(v, float) else v for name, v in vars(self.counts).items()}
        return {
            "stall_seconds": self.stall_seconds, "seconds": round(self.seconds, 1), "at_once": AT_ONCE, **counts,
            "limit": self.lab.controller.limit, "cap": self.lab.controller.cap,
            "largest": {**vars(self.largest), "share": round(self.largest.share, 3)},
            "counters": self.lab.controller.counters(),
        }  # fmt: skip


class Round:
    """One flow: bytes one way or both, stalls, hand-overs in mid-stream, and ends in either order."""

    def __init__(self, soak: Soak, seed: int) -> None:
        self.soak = soak
        self.seed = seed
        self.dice = random.Random(seed)
        whole = seed == 0
        self.size = LARGE if whole else int(2 ** self.dice.uniform(20, 26.5))
        longest = soak.stall_seconds
        lengths = [longest] if whole else [self._length(longest) for _ in range(self.dice.randrange(1, 4))]
        while sum(lengths) > longest:
            lengths.pop()
        self.stalls = sorted((self.dice.randrange(self.size // 2 + 1), length) for length in lengths)
        if whole:
            self.stalls = [(self.size // 16, longest)]
        self.hand_overs = sorted(self.dice.randrange(self.size) for _ in range(self.dice.randrange(5)))

    def _length(self, longest: float) -> float:
        """Most are short, some take all that there is."""
        return longest * min(1.0, self.dice.random() ** 2 * 1.2)

    def run(self) -> None:
        """AssertionError, or OSError, where a byte is lost or changed."""
        with self.soak.flow(self.seed) as flow, closing(Splicer(self.soak.lab.pins.path)) as self.splicer:
            back = self._back(flow)
            self.sender = Sender(flow.client, self.size, self.seed, end=self.dice.random() < 0.5)
            self.sender.start()
            digest = read_all(flow.server, self.size, lambda got: self._pause(flow, got))
            self.sender.join()
            self._ended(digest == self.sender.digest, self.size)
            if back is not None:
                back.join()
            self._last_word(flow)
            self._count(flow)

    def _back(self, flow: ScratchFlow) -> threading.Thread | None:
        """The other direction, in two rounds of three; its reader never stops."""
        if self.dice.random() < 1 / 3:
            return None
        size = self.size // 4

        def carry() -> None:
            sender = Sender(flow.server, size, self.seed + 1_000_000)
            sender.start()
            digest = read_all(flow.client, size)
            sender.join()
            self._ended(digest == sender.digest, size)

        thread = threading.Thread(target=carry, daemon=True)
        thread.start()
        return thread

    def _ended(self, equal: bool, size: int) -> None:
        self.soak.count(streams=1, equal=int(equal), octets=size)

    def _pause(self, flow: ScratchFlow, got: int) -> None:
        while self.hand_overs and got >= self.hand_overs[0]:
            del self.hand_overs[0]
            number = flow.agent.flow or 0
            self.splicer.disable(number)
            if self.dice.random() < 0.5:
                time.sleep(self.dice.choice((0.0001, 0.002, 0.02)))
            self.splicer.enable(number)
            self.soak.count(hand_overs=1)
        while self.stalls and got >= self.stalls[0][0]:
            self._stall(self.stalls.pop(0)[1])

    def _stall(self, length: float) -> None:
        began = time.monotonic()
        time.sleep(length / 2)
        before = self.sender.sent
        time.sleep(length / 2)
        held = length > LONG and self.sender.sent == before < self.size
        if self.seed == 0 and length >= CERTAIN:
            assert held, f"the sender got on from {before} to {self.sender.sent} of {self.size}"
        took = time.monotonic() - began
        self.soak.count(stalls=1, stalled_seconds=took, longest_stall=took, held_senders=int(held))

    def _last_word(self, flow: ScratchFlow) -> None:
        """The client has ended, or ends now; the server answers the end."""
        if not self.sender.end:
            flow.client.sendall(b"bye")
            assert read_all(flow.server, 3)
            flow.client.shutdown(socket.SHUT_WR)
        assert flow.server.recv(1) == b"", "bytes after the end"
        answer = Sender(flow.server, self.dice.randrange(1, 200_000), self.seed + 2_000_000, end=True)
        answer.start()
        digest = read_all(flow.client, answer.size)
        assert flow.client.recv(1) == b"", "bytes after the end"
        answer.join()
        self._ended(digest == answer.digest, answer.size)
        self.soak.count(half_closes=1)

    def _count(self, flow: ScratchFlow) -> None:
        ways = self.splicer.look(flow.agent.flow or 0)
        if ways is not None:
            redirected, switches = (sum(way[name] for way in ways) for name in ("redirected", "switches"))
            self.soak.count(redirected=redirected, switches=switches)
        self.soak.count(rounds=1)


def _meminfo(end: socket.socket) -> tuple[int, int, int, int, int]:
    """Received and not read, room for that, room for sending, not yet acknowledged, on its way in."""
    packed = end.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
    received, room, _, space, _, queued, _, backlog, _ = MEMINFO.unpack(packed)
    return received, room, space, queued, backlog


def table(report: dict[str, Any]) -> str:
    """For people."""
    largest = report["largest"]
    rows = [
        ("rounds", f"{report['rounds']} of {report['seconds']} s, {report['at_once']} at once"),
        ("bytes", f"{report['octets'] / 1e9:.2f} GB, {100 * report['redirected'] // report['octets']} % in the kernel"),
        ("stalls", f"{report['stalls']}, {report['stalled_seconds']} s in all, longest {report['longest_stall']} s"),
        ("senders seen held", f"{report['held_senders']} of the long stalls"),
        ("hand-overs, half-closes", f"{report['hand_overs']}, {report['half_closes']}"),
        ("became spliced", f"{report['switches']} times"),
        ("largest queue of a direction", f"{_mib(largest['queue'])} of {_mib(report['limit'])} allowed"),
        ("largest memory of a flow", f"{_mib(largest['held'])} of {_mib(largest['bound'])} allowed (most: "
                                     f"{100 * largest['share']:.0f} % of what was allowed)"),
        ("largest queues of the node", f"{_mib(largest['node'])} of {_mib(report['cap'])} allowed"),
        ("SHA-256 equal", f"{report['equal']} of {report['streams']} streams"),
    ]  # fmt: skip
    return "\n".join(f"{name:30} {value}" for name, value in rows)


def _mib(octets: int) -> str:
    return f"{octets / (1 << 20):.1f} MiB"


def write(report: dict[str, Any], path: Path) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
