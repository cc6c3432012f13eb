"""SPIFFE IDs, rule by rule."""

from __future__ import annotations

import pytest

from control.wire.ids import (
    MAX_ID_BYTES,
    SpiffeId,
    SpiffeIdError,
    check_trust_domain,
    control_id,
    is_dns_label,
    node_id,
    operator_id,
)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://mesh.internal/ns/shop/sa/web",
        "spiffe://a/b",
        "spiffe://my_td-1.x/A.b-C_d/...",
        "spiffe://td/ns/shop/sa/web/more",
    ],
)
def test_what_is_an_id_comes_back_byte_for_byte(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "spiffe://"),
        ("https://td/a", "spiffe://"),
        ("SPIFFE://td/a", "spiffe://"),
        ("spiffe:/td/a", "spiffe://"),
        ("spiffe:///a", "trust domain is empty"),
        ("spiffe://TD/a", "lower-case"),
        ("spiffe://td:80/a", "lower-case"),
        ("spiffe://user@td/a", "lower-case"),
        ("spiffe://t%20d/a", "lower-case"),
        ("spiffe://tä/a", "lower-case"),
        ("spiffe://td\n/a", "lower-case"),
        ("spiffe://" + "t" * 256 + "/a", "255"),
        ("spiffe://td", "no path"),
        ("spiffe://td/", "no path"),
        ("spiffe://td//a", "segment ''"),
        ("spiffe://td/a/", "segment ''"),
        ("spiffe://td/a//b", "segment ''"),
        ("spiffe://td/.", r"segment '\.'"),
        ("spiffe://td/a/../b", r"segment '\.\.'"),
        ("spiffe://td/a?q", "segment"),
        ("spiffe://td/a#f", "segment"),
        ("spiffe://td/a%41", "segment"),
        ("spiffe://td/ä", "segment"),
        ("spiffe://td/a\n", "segment"),
        ("spiffe://td/a\x00", "segment"),
    ],
)
def test_what_is_none_names_the_rule(text: str, says: str) -> None:
    with pytest.raises(SpiffeIdError, match=says):
        SpiffeId.parse(text)


def test_length() -> None:
    base = "spiffe://td/"
    assert SpiffeId.parse(base + "x" * (MAX_ID_BYTES - len(base)))
    with pytest.raises(SpiffeIdError, match="2048"):
        SpiffeId.parse(base + "x" * (MAX_ID_BYTES - len(base) + 1))


def test_workload_identities() -> None:
    identity = SpiffeId.workload("mesh.internal", "shop", "web")
    assert str(identity) == "spiffe://mesh.internal/ns/shop/sa/web"
    assert (identity.is_workload, identity.namespace, identity.service_account) == (True, "shop", "web")


@pytest.mark.parametrize(
    ("namespace", "account"), [("", "c"), ("a", ""), ("..", "c"), ("a", "c/../d"), ("a b", "c"), ("a", "c?")]
)
def test_a_workload_identity_is_checked_like_any_other(namespace: str, account: str) -> None:
    with pytest.raises(SpiffeIdError):
        SpiffeId.workload("td", namespace, account)


@pytest.mark.parametrize(("namespace", "account"), [("a/b", "c"), ("a", "b/c"), ("a/sa/b", "c")])
def test_a_slash_makes_nobody_another_workload(namespace: str, account: str) -> None:
    assert not SpiffeId.workload("td", namespace, account).is_workload


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://td/ns/a",
        "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/NS/a/sa/b",
        "spiffe://td/x/a/sa/b",
    ],
)
def test_other_paths_are_no_workloads(text: str) -> None:
    identity = SpiffeId.parse(text)
    assert (identity.is_workload, identity.namespace, identity.service_account) == (False, "", "")


def test_the_mesh_itself_can_never_pass_for_a_workload() -> None:
    for identity in (node_id("td", "node-a"), operator_id("td", "ops"), control_id("td")):
        assert not identity.is_workload
    assert str(node_id("td", "node-a")) == "spiffe://td/node/node-a"
    assert str(control_id("td")) == "spiffe://td/control"


def test_trust_domains() -> None:
    assert check_trust_domain("t" * 255) == "t" * 255
    for bad in ("", "T", "a b", "t" * 256, "a/b", "a\n"):
        with pytest.raises(SpiffeIdError):
            check_trust_domain(bad)


@pytest.mark.parametrize("text", ["a", "web-0", "0a", "a" * 63])
def test_dns_labels(text: str) -> None:
    assert is_dns_label(text)


@pytest.mark.parametrize("text", ["a" * 64, "", "-a", "a-", "A", "a.b", "a_b", "a\n", "ä"])
def test_what_is_no_dns_label(text: str) -> None:
    assert not is_dns_label(text)
