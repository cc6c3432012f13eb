"""Whatever an application sends to port 53: a verdict, never an exception, and an answer is one to its question.

python tests/fuzz/fuzz_dns.py --runs 10000 --seed 7
"""

from __future__ import annotations

import random
import sys

import dns.flags
import dns.message
import dns.update

from control.wire.discovery import MESH_UID, MeshSettings
from nodeagent.dns.decide import Answer, Discard, decide
from nodeagent.dns.io.tcp import Framer, framed
from nodeagent.dns.messages import HEADER_BYTES, MAX_MESSAGE_BYTES, failure, identifier
from nodeagent.state.view import NodeState
from tests.fuzz.mutate import run
from tests.support.objects import service, snapshot

STATE = NodeState()
STATE.apply(snapshot(service("web"), MeshSettings(uid=MESH_UID, domain="mesh.internal")))
NAMES = ("web.shop.mesh.internal", "_http._tcp.web.shop.mesh.internal", "shop.mesh.internal", "example.com")
CORPUS = [
    dns.message.make_query(name, kind, use_edns=edns).to_wire()
    for name in NAMES for kind in ("A", "AAAA", "SRV", "ANY", "TXT") for edns in (-1, 0)
] + [dns.update.UpdateMessage("mesh.internal").to_wire()]  # fmt: skip


def target(rng: random.Random, data: bytes) -> bool:
    """Whether the agent answers itself."""
    pieces, framer = [], Framer()
    stream = framed(data[:MAX_MESSAGE_BYTES]) * 2
    while stream:
        size = rng.randint(1, len(stream))
        pieces += framer.feed(stream[:size])
        stream = stream[size:]
    assert pieces == [data[:MAX_MESSAGE_BYTES]] * 2
    verdict = decide(STATE, data, udp=rng.random() < 0.5)
    if isinstance(verdict, Discard):
        assert verdict.why.isprintable()
        return False
    answers = [failure(data)] + ([verdict.message] if isinstance(verdict, Answer) else [])
    for answer in answers:
        assert identifier(answer) == identifier(data) and len(answer) >= HEADER_BYTES
        assert answer[2] & 0x80
        if not answer[2] & 0x78:  # an ordinary query: the codec reads other operations by rules of their own
            assert dns.message.from_wire(answer).flags & dns.flags.QR
    return isinstance(verdict, Answer)


def test_messages() -> None:
    """A short run with a seed of its own, as part of every test run."""
    assert run(target, CORPUS, ["--runs", "3000"]) == 0


if __name__ == "__main__":
    sys.exit(run(target, CORPUS, sys.argv[1:]))
