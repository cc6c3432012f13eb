"""Who may do what: every route, for every kind of caller."""

from __future__ import annotations

import pytest

from tests.support.mesh import node
from tests.unit.control.api.desk import Desk

ANYONE = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/trust-bundle"),
    ("POST", "/v1/join"),
    ("GET", "/openapi.json"),
}
NODES = {("POST", "/v1/renew"), ("POST", "/v1/svids"), ("GET", "/v1/watch")}


def routes(desk: Desk) -> list[tuple[str, str]]:
    document = desk.app.openapi()
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return [*found, ("GET", "/openapi.json")]


def test_every_route_is_closed_to_those_it_is_not_for(desk: Desk) -> None:
    desk.apply(node())
    callers = {
        "anonymous": desk.anonymous(),
        "operator": desk.operator(),
        "node": desk.node(),
        "workload": desk.workload(),
    }
    found = routes(desk)
    assert len(found) > 30
    for method, path in found:
        allowed = (
            {"anonymous", "operator", "node", "workload"}
            if (method, path) in ANYONE
            else ({"node"} if (method, path) in NODES else {"operator"})
        )
        for who, client in callers.items():
            if who in allowed:
                continue
            # A body that is right for none: who may not call is told so before anything is read into it.
            answer = client.request(method, path.replace("{", "").replace("}", ""), json={})
            wanted = 401 if who == "anonymous" else 403
            assert answer.status_code == wanted, (who, method, path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


def test_the_open_routes_are_open(desk: Desk) -> None:
    desk.sync()
    for method, path in ANYONE - {("POST", "/v1/join")}:
        assert desk.anonymous().request(method, path).status_code == 200
    assert desk.anonymous().get("/v1/trust-bundle").json() == {
        "trust_domain": "mesh.internal",
        "certificates": list(desk.keys.roots),
    }


def test_readiness_waits_for_the_first_read(desk: Desk) -> None:
    assert desk.anonymous().get("/readyz").status_code == 503
    desk.sync()
    assert desk.anonymous().get("/readyz").status_code == 200


def test_a_certificate_that_ran_out_on_an_open_connection(desk: Desk) -> None:
    desk.sync()
    operator = desk.operator()
    assert operator.get("/v1/status").status_code == 200
    desk.clock.now += 3600
    answer = operator.get("/v1/status")
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (401, True)


@pytest.mark.parametrize("path", ["/v1/renew", "/v1/svids", "/v1/watch"])
def test_a_node_that_was_removed_is_nobody(desk: Desk, path: str) -> None:
    desk.apply(node())
    client = desk.node()
    desk.registry.delete([(("Node", "", "node-a"), None)])
    desk.sync()
    answer = client.get(path) if path == "/v1/watch" else client.post(path, json={"csr": "", "identity": ""})
    assert answer.status_code == 403
    assert "no Node 'node-a'" in answer.json()["detail"]
