"""Joining: a token buys one certificate, failures cost the caller time, and a bad request costs no token."""

from __future__ import annotations

import pytest
from cryptography import x509

from control.api.throttle import BURST, MAX_ADDRESSES, Throttle
from tests.support.control_process import make_csr
from tests.support.mesh import node
from tests.unit.control.api.desk import Desk


@pytest.fixture
def token(desk: Desk) -> str:
    desk.apply(node())
    made = desk.operator().post("/v1/tokens", json={"node": "node-a", "ttl": 60})
    assert made.status_code == 201
    return str(made.json()["token"])


def names(chain: str) -> list[str]:
    leaf = x509.load_pem_x509_certificate(chain.encode())
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )


def test_a_token_buys_a_node_certificate_once(desk: Desk, token: str) -> None:
    body = {"token": token, "csr": make_csr()[1]}
    answer = desk.anonymous().post("/v1/join", json=body).json()
    assert (answer["node"], answer["trust_domain"]) == ("node-a", "mesh.internal")
    assert answer["certificates"] == list(desk.keys.roots)
    assert names(answer["chain"]) == ["spiffe://mesh.internal/node/node-a"]
    leaf = x509.load_pem_x509_certificate(answer["chain"].encode())
    assert leaf.not_valid_after_utc.timestamp() == desk.clock.now + 1000
    again = desk.anonymous().post("/v1/join", json=body)
    assert again.status_code == 403
    assert again.json()["errors"][0]["field"] == "token"
    assert "already used" in again.json()["detail"]


def test_a_bad_request_costs_no_token(desk: Desk, token: str) -> None:
    for body, field in (
        ({"token": token, "csr": "x"}, "csr"),
        ({"token": token}, "csr"),
        ({"csr": make_csr()[1]}, "token"),
        ({"token": 7, "csr": "x"}, "token"),
    ):
        answer = desk.anonymous().post("/v1/join", json=body)
        assert answer.status_code == 422
        assert [e["field"] for e in answer.json()["errors"]] == [field]
    assert desk.anonymous().post("/v1/join", json={"token": token, "csr": make_csr()[1]}).status_code == 200


def test_a_node_that_has_another_name_keeps_its_token(desk: Desk, token: str) -> None:
    body = {"token": token, "csr": make_csr()[1]}
    refused = desk.anonymous().post("/v1/join", json={**body, "node": "node-b"})
    assert (refused.status_code, "'node-b'" in refused.json()["detail"]) == (403, True)
    assert desk.anonymous().post("/v1/join", json={**body, "node": "node-a"}).status_code == 200


def test_failures_from_one_address_must_wait(desk: Desk, token: str) -> None:
    bad = {"token": "nm1.aa.bb.cc", "csr": make_csr()[1]}
    assert [desk.anonymous().post("/v1/join", json=bad).status_code for _ in range(BURST)] == [403] * BURST
    refused = desk.anonymous().post("/v1/join", json={**bad, "token": token})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 6
    desk.clock.now += 7
    assert desk.anonymous().post("/v1/join", json={**bad, "token": token}).status_code == 200


def test_a_throttle_forgives_with_time_and_forgets_with_bounds() -> None:
    throttle = Throttle(burst=2, per_second=1)
    throttle.failed("a", 0)
    assert throttle.wait_needed("a", 0) == 0
    throttle.failed("a", 0)
    assert throttle.wait_needed("a", 0.25) == 0.75
    assert throttle.wait_needed("b", 0) == 0
    assert throttle.wait_needed("a", 1) == 0
    for number in range(MAX_ADDRESSES + 10):
        throttle.failed(str(number), 1)
    assert len(throttle._buckets) == MAX_ADDRESSES


def test_renewal_keeps_the_name(desk: Desk, token: str) -> None:
    answer = desk.node().post("/v1/renew", json={"csr": make_csr()[1]})
    assert names(answer.json()["chain"]) == ["spiffe://mesh.internal/node/node-a"]
    assert desk.node().post("/v1/renew", json={"csr": "x"}).status_code == 422


def test_token_requests_are_checked(desk: Desk, token: str) -> None:
    for body, field in (
        ({"node": "A B"}, "node"),
        ({"node": "node-a", "ttl": 0}, "ttl"),
        ({"node": "node-a", "ttl": 1e9}, "ttl"),
        ({"node": "node-a", "tll": 5}, "tll"),
        ({}, "node"),
    ):
        answer = desk.operator().post("/v1/tokens", json=body)
        assert answer.status_code == 422, body
        assert [e["field"] for e in answer.json()["errors"]] == [field]
    missing = desk.operator().post("/v1/tokens", json={"node": "node-z"})
    assert missing.status_code == 404 and "apply the Node first" in missing.json()["detail"]


def test_tokens_are_listed_without_secrets_and_revoked(desk: Desk, token: str) -> None:
    listed = desk.operator().get("/v1/tokens")
    assert token.split(".")[2] not in listed.text
    (item,) = listed.json()["items"]
    assert (item["node"], item["used"]) == ("node-a", None)
    assert desk.operator().delete(f"/v1/tokens/{item['id']}").status_code == 204
    assert desk.operator().delete(f"/v1/tokens/{item['id']}").status_code == 404
    assert desk.anonymous().post("/v1/join", json={"token": token, "csr": make_csr()[1]}).status_code == 403
