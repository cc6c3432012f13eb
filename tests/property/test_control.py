"""Control under any input: parsing never fails oddly, addresses never meet, batches always lead to the snapshot."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from control.codec.values import from_json, to_json
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import Resource
from control.kinds.known import KINDS
from control.registry.errors import Invalid
from control.registry.parse import parse
from control.registry.vips import allocate
from control.watch.hub import difference
from control.watch.projection import project
from control.wire.discovery import KINDS as WIRE_KINDS
from tests.support.mesh import make_registry, node, peer, policy, resource, service, workload

MESH = Mesh(trust_domain="mesh.internal", cluster="lab", roots=("PEM",))
WORDS = st.sampled_from(
    [
        "kind",
        "apiVersion",
        "metadata",
        "spec",
        "name",
        "namespace",
        "labels",
        "rules",
        "from",
        "to",
        "source",
        "operation",
        "ports",
        "principals",
        "addresses",
        "selectors",
        "selector",
        "node",
        "systemdUnit",
        "cgroupPath",
        "mtls",
        "mode",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(string.printable, max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(value=JSON, kind=st.sampled_from(sorted(KINDS.names)))
def test_any_value_is_a_resource_or_named_faults(value: Any, kind: str) -> None:
    if isinstance(value, dict):
        value = {**value, "kind": kind, "apiVersion": "nodemesh/v1"}
    found = parse(value, 7)
    if isinstance(found, list):
        assert found and all(fault.message and fault.index == 7 for fault in found)
    else:
        assert isinstance(found, Resource)


GOOD = [
    node(),
    workload(appAddress="::1", ports=[1], addresses=["10.0.0.9"]),
    service(),
    policy(
        action="DENY", rules=[{"from": [{"source": {"principals": ["*"]}}], "to": [{"operation": {"ports": ["1"]}}]}]
    ),
    peer(selector={"matchLabels": {"app": "web"}}),
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    here = [path] if path else []
    if isinstance(value, dict):
        return here + [place for key in value for place in _places(value[key], (*path, key))]
    if isinstance(value, list):
        return here + [place for index, item in enumerate(value) for place in _places(item, (*path, index))]
    return here


@given(good=st.sampled_from(GOOD), data=st.data())
def test_one_wrong_place_is_blamed_on_that_place(good: dict[str, Any], data: st.DataObject) -> None:
    """Whatever is put anywhere into a good resource: it is taken, or a fault names that place or one around it."""
    place = data.draw(st.sampled_from(_places(good)))
    changed = json.loads(json.dumps(good))
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = data.draw(JSON)
    found = parse(changed)
    if not isinstance(found, list):
        return
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    text = text.removeprefix(".")
    assert all(text.startswith(f.field) or f.field.startswith(text) for f in found), (text, found)


@given(good=st.sampled_from(GOOD))
def test_documents_parse_to_what_they_came_from(good: dict[str, Any]) -> None:
    first = parse(good)
    assert isinstance(first, Resource)
    assert parse(json.loads(json.dumps(first.document()))) == first


@given(start=st.integers(0, 70_000), used=st.sets(st.integers(1, 60)), count=st.integers(1, 80))
def test_addresses_are_given_once(start: int, used: set[int], count: int) -> None:
    taken = {f"240.240.0.{n}" for n in used}
    cursor = start
    for _ in range(count):
        pair, cursor = allocate(cursor, taken)
        assert not taken.intersection(pair)
        taken.update(pair)


NAMES = st.sampled_from(["a", "b", "c"])
LABELS = st.dictionaries(st.sampled_from(["app", "version"]), st.sampled_from(["a", "b"]), max_size=2)
MATCH: st.SearchStrategy[dict[str, Any]] = LABELS.map(lambda labels: {"selector": {"matchLabels": labels}}) | st.just(
    {}
)
NAMESPACES = st.sampled_from(["shop", "nodemesh-system"])
OBJECTS = st.one_of(
    st.builds(workload, NAMES, LABELS, NAMESPACES, ports=st.lists(st.integers(1, 3), unique=True)),
    st.builds(
        lambda name, app: resource("Service", name, {"selector": {"app": app}, "ports": [{"port": 80}]}),
        NAMES,
        st.sampled_from(["a", "b"]),
    ),
    st.builds(lambda name, ns, match: policy(name, ns, **match), NAMES, NAMESPACES, MATCH),
    st.builds(
        lambda name, ns, mode, match: peer(name, mode, ns, **match),
        NAMES,
        NAMESPACES,
        st.sampled_from(["STRICT", "UNSET", "DISABLE"]),
        MATCH,
    ),
)
STEPS = st.lists(st.lists(OBJECTS, min_size=1, max_size=4) | st.integers(0, 20), max_size=12)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_deltas_lead_to_the_snapshot_and_references_hold(steps: list[Any]) -> None:
    registry, _ = make_registry()
    registry.apply([node()])
    told = project(registry.catalogue(), MESH)
    held = {(c.kind, c.uid): c.value for c in difference({}, told)}
    for step in steps:
        if isinstance(step, int):
            present = [r for r in registry.catalogue()._by_key.values() if r.kind != "Node"]
            if present:
                registry.delete([(present[step % len(present)].key, None)])
        else:
            try:
                registry.apply(step)
            except Invalid:
                continue
        now = project(registry.catalogue(), MESH)
        for change in difference(told, now):
            held.pop((change.kind, change.uid), None)
            if change.value is not None:
                held[change.kind, change.uid] = change.value
        told = now
        assert held == {(c.kind, c.uid): c.value for c in difference({}, told)}
    _check_references(held)


def _check_references(held: dict[tuple[str, str], bytes]) -> None:
    addresses: set[str] = set()
    claims: set[tuple[str, int]] = set()
    for (kind, uid), encoded in held.items():
        made = from_json(WIRE_KINDS[kind], encoded)
        assert made.uid == uid and to_json(made) == encoded
        value = json.loads(encoded)
        if kind == "workload":
            assert all(("policy", policy_uid) in held for policy_uid in value["policies"])
            pairs = {(address, port) for address in value["addresses"] for port in value["ports"]}
            assert not pairs & claims
            claims |= pairs
        if kind == "service":
            assert all(("workload", endpoint) in held for endpoint in value["endpoints"])
            assert value["addresses"] and not addresses.intersection(value["addresses"])
            addresses.update(value["addresses"])
