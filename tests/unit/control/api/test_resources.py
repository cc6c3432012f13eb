"""Resources over HTTP: statuses, bodies, and the exact field of every mistake."""

from __future__ import annotations

from control.api.transport import MAX_BODY_BYTES
from tests.support.mesh import node, policy, service, workload
from tests.unit.control.api.desk import Desk


def test_apply_reports_each_object(desk: Desk) -> None:
    body = {"objects": [workload(), node(), service()]}
    answer = desk.operator().post("/v1/apply", json=body)
    assert answer.status_code == 200
    assert answer.json()["results"] == [
        {"kind": "Workload", "namespace": "shop", "name": "web-0", "action": "created", "resourceVersion": "1"},
        {"kind": "Node", "namespace": "", "name": "node-a", "action": "created", "resourceVersion": "1"},
        {"kind": "Service", "namespace": "shop", "name": "web", "action": "created", "resourceVersion": "1"},
    ]
    again = desk.operator().post("/v1/apply", json=body).json()["results"]
    assert {item["action"] for item in again} == {"unchanged"}


def test_mistakes_are_named_by_object_and_field(desk: Desk) -> None:
    bad = policy(rules=[{"from": [{"source": {"principalz": ["a"]}}]}])
    answer = desk.operator().post("/v1/apply", json={"objects": [node(), bad]})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["errors"] == [
        {
            "index": 1,
            "subject": "AuthorizationPolicy shop/deny",
            "field": "spec.rules[0].from[0].source.principalz",
            "message": "unknown field",
        }
    ]
    assert body["title"] and body["status"] == 422 and "principalz" in body["detail"]
    assert desk.operator().get("/v1/nodes").json()["items"] == []


def test_one_object_by_path(desk: Desk) -> None:
    operator = desk.operator()
    assert operator.put("/v1/nodes/node-a", json=node()).status_code == 200
    where = "/v1/namespaces/shop/workloads/web-0"
    made = operator.put(where, json=workload()).json()
    assert made == operator.get(where).json()
    assert made["metadata"]["resourceVersion"] == "2"
    renamed = operator.put(where, json=workload("other"))
    assert (renamed.status_code, renamed.json()["errors"][0]["field"]) == (422, "metadata.name")
    moved = operator.put(where, json=workload(namespace="else"))
    assert moved.json()["errors"][0]["field"] == "metadata.namespace"
    assert operator.put(where, json=service()).json()["errors"][0]["field"] == "kind"
    operator.put(where, json=workload(ports=[9000]))
    stale = operator.put(where, json={**made, "metadata": {**made["metadata"]}})
    assert (stale.status_code, stale.json()["errors"][0]["field"]) == (409, "metadata.resourceVersion")
    assert operator.delete(where, params={"resourceVersion": "2"}).status_code == 409
    assert operator.delete(where).status_code == 204
    assert operator.get(where).status_code == 404
    assert operator.delete(where).status_code == 404


def test_lists_by_namespace(desk: Desk) -> None:
    desk.apply(node(), policy(), policy(namespace="else"))
    listed = desk.operator().get("/v1/authorizationpolicies").json()
    assert [i["metadata"]["namespace"] for i in listed["items"]] == ["else", "shop"]
    assert listed["revision"] == 1
    assert len(desk.operator().get("/v1/authorizationpolicies?namespace=shop").json()["items"]) == 1
    assert len(desk.operator().get("/v1/nodes?namespace=shop").json()["items"]) == 1


def test_deleting_several(desk: Desk) -> None:
    desk.apply(node(), workload())
    operator = desk.operator()
    node_only = operator.post("/v1/delete", json={"objects": [{"kind": "Node", "name": "node-a"}]})
    assert (node_only.status_code, node_only.json()["errors"][0]["subject"]) == (422, "Node node-a")
    both = [{"kind": "Node", "name": "node-a"}, {"kind": "Workload", "namespace": "shop", "name": "web-0"}]
    done = operator.post("/v1/delete", json={"objects": both}).json()["results"]
    assert [result["action"] for result in done] == ["deleted"] * 2
    gone = operator.post("/v1/delete", json={"objects": both})
    assert (gone.status_code, [e["index"] for e in gone.json()["errors"]]) == (404, [0, 1])
    assert operator.post("/v1/delete", json={"objects": both, "ignoreMissing": True}).status_code == 200
    assert operator.post("/v1/delete", json={"objects": [{"kind": "Pod", "name": "x"}]}).status_code == 422


def test_bodies_that_are_no_requests(desk: Desk) -> None:
    operator = desk.operator()
    for content in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"objects": 1}', b'{"objects": [], "x": 1}'):
        answer = operator.post("/v1/apply", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), content
        assert answer.headers["content-type"] == "application/problem+json"
    deep = b'{"objects":' + b"[" * 5000 + b"]" * 5000 + b"}"
    answer = operator.post("/v1/apply", content=deep, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert operator.post("/v1/apply", json={"objects": []}).json() == {"results": []}


def test_bodies_have_a_bound(desk: Desk) -> None:
    answer = desk.operator().post("/v1/apply", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.json()["detail"]


def test_unknown_paths_and_methods_are_problems_too(desk: Desk) -> None:
    for method, path, status in (("GET", "/nope", 404), ("PATCH", "/v1/nodes", 405), ("GET", "/v1/nodes/A%2FB", 404)):
        answer = desk.operator().request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_store_that_failed_is_said_to_be_unavailable(desk: Desk) -> None:
    from control.store.base import UnavailableError

    def fail(*_: object) -> None:
        raise UnavailableError("the database failed: disk full")

    desk.store.transact = fail  # type: ignore[method-assign, assignment]
    answer = desk.operator().post("/v1/apply", json={"objects": [node()]})
    assert (answer.status_code, answer.json()["detail"]) == (503, "the database failed: disk full")


def test_status_of_control_and_nodes(desk: Desk) -> None:
    desk.apply(node(), workload())
    status = desk.operator().get("/v1/status").json()
    assert (status["trustDomain"], status["cluster"], status["revision"]) == ("mesh.internal", "lab", 1)
    assert status["resources"]["Workload"] == 1
    nodes = desk.operator().get("/v1/nodes/status").json()
    unseen = {"node": "node-a", "watching": False, "last_seen": None, "revision": None}
    assert nodes == {"revision": 1, "items": [unseen]}


def test_text_that_is_no_unicode_is_answered_all_the_same(desk: Desk) -> None:
    for text in (
        '{"kind": "\\ud800"}',
        '{"kind": "Node", "apiVersion": "nodemesh/v1", "\\udfff": 1, "metadata": {"name": "\\ud800"}}',
    ):
        content = '{"objects": [' + text + "]}"
        answer = desk.operator().post("/v1/apply", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and answer.json()["errors"]
