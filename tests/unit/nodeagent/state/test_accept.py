"""Item by item: what is refused, how it is named, and that the rest is taken."""

from __future__ import annotations

from typing import Any

import pytest

from control.wire.discovery import DiscoveryObject
from control.wire.watch import Change
from nodeagent.state.accept import MAX_MESSAGE, MAX_REJECTED, Acceptance
from tests.support.objects import bundle, change, gone, policy, service, workload


def accept(changes: tuple[Change, ...]) -> Acceptance:
    result = Acceptance()
    for item in changes:
        result.take(item)
    return result


@pytest.mark.parametrize(
    ("value", "field", "content", "says"),
    [
        (workload(), "identity", "spiffe://mesh.internal/node/node-a", "identity"),
        (workload(), "identity", "https://mesh.internal/ns/a/sa/b", "spiffe://"),
        (workload(), "addresses", ["10.0.0.256"], "10.0.0.256"),
        (workload(), "addresses", ["fe80::1%eth0"], "scope"),
        (workload(), "addresses", "10.0.0.1", "addresses"),
        (workload(), "ports", [0], "ports"),
        (workload(), "ports", [65536], "ports"),
        (workload(), "ports", [True], "ports"),
        (workload(), "tunnel_port", -1, "tunnel_port"),
        (workload(), "app_address", "localhost", "localhost"),
        (workload(), "uid", "shop/other@1", "uid"),
        (workload(), "port_mtls_modes", ["STRICT"], "port_mtls_modes"),
        (workload(), "node", "<absent>", "node: missing"),
        (service(), "addresses", ["web.shop"], "web.shop"),
        (service(), "ports", [{"name": "x", "port": 80, "target_port": 0}], "target_port"),
        (service(), "ports", [{"name": "x", "port": 99999, "target_port": 1}], "99999"),
        (policy(), "action", "CUSTOM", "action"),
        (policy(), "rules", [{"sources": [{"principals": [1]}]}], "principals[0]"),
        (bundle("x"), "certificates", [None], "certificates[0]"),
        (bundle("x", trust_domain="MESH"), "certificates", [], "lower-case"),
    ],
)
def test_what_is_refused_says_which_object_and_which_field(
    value: DiscoveryObject, field: str, content: Any, says: str
) -> None:
    bad = change(value, **{field: content})
    good = workload("good")
    result = accept((bad, change(good)))
    assert result.objects[(bad.kind, bad.uid)] is None
    assert result.objects[("workload", good.uid)] == good
    (message,) = result.rejected
    assert message.startswith(f"{bad.kind} {bad.uid}: ") and says in message


def test_fields_of_a_newer_control_are_ignored() -> None:
    result = accept((change(workload(), mood="good"),))
    assert result.rejected == () and result.objects[("workload", workload().uid)] == workload()


def test_unknown_kinds_are_skipped_and_counted() -> None:
    changes = tuple(Change(kind="waypoint", uid=str(number), value=b"{}") for number in range(3))
    result = accept((*changes, change(workload())))
    assert list(result.objects) == [("workload", workload().uid)]
    (message,) = result.rejected
    assert "'waypoint'" in message and "3 skipped" in message


def test_the_last_word_counts() -> None:
    key = ("workload", workload().uid)
    assert accept((change(workload()), gone(workload()))).objects[key] is None
    assert accept((gone(workload()), change(workload()))).objects[key] == workload()
    assert accept((change(workload()), change(workload(), ports="?"))).objects[key] is None


def test_an_address_in_two_spellings_is_one() -> None:
    result = accept((change(workload(addresses=("10.0.0.1", "::ffff:10.0.0.1"), app_address="::FFFF:127.0.0.1")),))
    (value,) = result.objects.values()
    assert value == workload(app_address="127.0.0.1")


def test_messages_are_bounded_in_number_and_length() -> None:
    bad = tuple(
        Change(kind="policy", uid=f"shop/{number}", value=change(policy(), action="A" * 5000).value)
        for number in range(MAX_REJECTED * 3)
    )
    result = accept(bad)
    assert len(result.objects) == MAX_REJECTED * 3
    assert len(result.rejected) == MAX_REJECTED and result.rejected[-1] == f"and {MAX_REJECTED * 2 + 1} more"
    assert max(map(len, result.rejected)) <= MAX_MESSAGE
