"""Invariant: any JSON is a batch that a node can apply and then answer from, or a DecodeError; nothing else is raised.

An object that was refused is not there afterwards in any version, and a policy that is not there denies.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from control.codec.lines import read_line, read_whole  # noqa: E402
from control.codec.values import DecodeError  # noqa: E402
from control.wire.discovery import Action, PolicyRule, SourceMatch  # noqa: E402
from control.wire.ids import SpiffeId  # noqa: E402
from control.wire.watch import Batch  # noqa: E402
from nodeagent.policy.compile import PolicyCache  # noqa: E402
from nodeagent.policy.connection import Connection  # noqa: E402
from nodeagent.policy.evaluate import Permit, evaluate  # noqa: E402
from nodeagent.state.targets import MissingPolicy  # noqa: E402
from nodeagent.state.view import NodeState, OutOfOrderError  # noqa: E402
from nodeagent.steps import at_once  # noqa: E402
from tests.fuzz.mutate import run  # noqa: E402
from tests.support.objects import bundle, gone, line, policy, rule, service, snapshot, workload  # noqa: E402

OBJECTS = (
    workload(policies=("shop/p", "shop/q"), app_address="127.0.0.1", labels={"a": "b"}),
    workload("web-1", addresses=("10.0.0.2", "fd00::1"), ports=(1, 65535)),
    service(endpoints=("shop/web-0@1", "shop/web-1@1")),
    policy("p", Action.ALLOW, rule(SourceMatch(principals=("*",), not_namespaces=("x*",), ip_blocks=("10.0.0.0/8",)))),
    policy("q", Action.DENY, PolicyRule()),
    bundle("-----BEGIN CERTIFICATE-----"),
)
BASE = snapshot(*OBJECTS)
CORPUS = [
    line(BASE),
    line(snapshot(*OBJECTS[:3], revision=2)),
    line(Batch(instance=BASE.instance, revision=2, changes=(gone(OBJECTS[3]),))),
    *(line(snapshot(item, revision=3)) for item in OBJECTS),
    b'{"instance": "history-1", "revision": 5}',
    b"[[[[[[[[[[]]]]]]]]]]",
]
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 65536, 2**70, 1.5, "", "x", "*", "a*b", "10.0.0.0/33", "::ffff:10.0.0.1", "fe80::1%1",
    "shop/web-0@1", [], [None], ["*"], ["10.0.0.1"], [0], {}, {"x": 1}, "\ud800", "DENY",
)  # fmt: skip
CONNECTION = Connection(SpiffeId.parse("spiffe://mesh.internal/ns/shop/sa/client"), "10.0.0.9", "10.0.0.1", 8080)


def target(rng: random.Random, data: bytes) -> bool:
    """One input; True if it was a batch."""
    text = json.dumps(spoiled(rng)).encode() if rng.random() < 0.5 else data
    try:
        batch = at_once(read_line(text))
    except DecodeError as error:
        assert str(error).startswith("Batch"), error
        return False
    assert read_whole(line(batch)) == batch
    view = NodeState()
    view.apply(BASE)
    try:
        applied = view.apply(batch)
    except OutOfOrderError:
        return True
    assert view.revision == batch.revision
    check_answers(view)
    for message in applied.rejected:
        kind, _, rest = message.partition(" ")
        uid = rest.partition(":")[0]
        if kind == "policy":
            assert uid not in {known.uid for known in view.policies()}, message
    return True


def spoiled(rng: random.Random) -> Any:
    """A batch that is JSON still, with one value somewhere in it replaced or gone."""
    value = json.loads(rng.choice(CORPUS[:3]))
    here = value
    while True:
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        if isinstance(here[key], (dict, list)) and here[key] and rng.random() < 0.85:
            here = here[key]
        elif rng.random() < 0.2:
            del here[key]
            return value
        else:
            here[key] = rng.choice(VALUES)
            return value


def check_answers(view: NodeState) -> None:
    cache = PolicyCache()
    for known in view.workloads():
        policies = view.policies_of(known)
        held = {p.uid for p in view.policies()}
        assert isinstance(policies, MissingPolicy) == bool(set(known.policies) - held)
        verdict = evaluate(CONNECTION, policies, cache)
        assert not (isinstance(verdict, Permit) and isinstance(policies, MissingPolicy))
        assert all(view.owns(known, ip) and known in view.owners(ip) for ip in known.addresses)
    view.services()
    view.identities_on("node-a")


def test_wire_holds_its_invariant() -> None:
    assert run(target, CORPUS, ["--runs", "2000", "--seed", "1"]) == 0


if __name__ == "__main__":
    sys.exit(run(target, CORPUS, sys.argv[1:]))
