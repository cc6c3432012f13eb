"""A node gets the SVIDs of workloads placed on it, and no other certificate."""

from __future__ import annotations

import pytest
from cryptography import x509

from tests.support.control_process import make_csr
from tests.support.mesh import node, workload
from tests.unit.control.api.desk import Desk

WEB = "spiffe://mesh.internal/ns/shop/sa/web"


@pytest.fixture
def shop(desk: Desk) -> Desk:
    desk.apply(node(), node("node-b", "10.0.0.2"), workload(), workload("db-0", {}, node="node-b", serviceAccount="db"))
    return desk


def ask(desk: Desk, identity: str, name: str = "node-a", csr: str | None = None) -> tuple[int, dict[str, object]]:
    body = {"identity": identity, "csr": make_csr()[1] if csr is None else csr}
    answer = desk.node(name).post("/v1/svids", json=body)
    return answer.status_code, answer.json()


def test_the_svid_of_a_workload_on_the_node(shop: Desk) -> None:
    status, body = ask(shop, WEB)
    assert status == 200
    leaf, above = x509.load_pem_x509_certificates(str(body["chain"]).encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [WEB]
    assert leaf.not_valid_after_utc.timestamp() == shop.clock.now + 100
    assert above == shop.keys.intermediate.certificate


@pytest.mark.parametrize(
    "identity",
    [
        "spiffe://mesh.internal/ns/shop/sa/db",
        "spiffe://mesh.internal/ns/shop/sa/nobody",
        "spiffe://other.example/ns/shop/sa/web",
        "spiffe://mesh.internal/operator/admin",
        "spiffe://mesh.internal/node/node-b",
        "spiffe://mesh.internal/control",
    ],
)
def test_every_other_identity_is_refused(shop: Desk, identity: str) -> None:
    status, body = ask(shop, identity)
    assert status == 403
    assert identity in str(body["detail"]) and "node node-a" in str(body["detail"])


def test_a_workload_just_applied_is_known_at_once(shop: Desk) -> None:
    shop.registry.apply([workload("new", {}, serviceAccount="new")])
    assert ask(shop, "spiffe://mesh.internal/ns/shop/sa/new")[0] == 200


def test_a_workload_that_was_taken_away_gets_none(shop: Desk) -> None:
    shop.registry.delete([(("Workload", "shop", "web-0"), None)])
    shop.sync()
    assert ask(shop, WEB)[0] == 403


def test_bad_requests_name_the_field(shop: Desk) -> None:
    for identity, csr, field in (("web", None, "identity"), (WEB, "x", "csr")):
        status, body = ask(shop, identity, csr=csr)
        assert status == 422
        assert [e["field"] for e in body["errors"]] == [field]  # type: ignore[attr-defined]
