"""References and selectors, read from resources and from documents alike."""

from __future__ import annotations

from typing import Any

import pytest

from control.kinds.base.relations import Reach, ReferenceField, Selector, read
from control.registry.parse import parse
from tests.support.mesh import policy, resource, workload

ROOT = "nodemesh-system"
ROUTE = resource(
    "HTTPRoute",
    "cart",
    {
        "rules": [
            {"backendRefs": [{"name": "a"}, {"name": "b", "namespace": "pay"}]},
            {},
            {"backendRefs": [{"name": "c"}]},
        ]
    },
)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("spec.node", [("spec.node", "node-a")]),
        ("spec.serviceAccount", [("spec.serviceAccount", "web")]),
        ("spec.selectors.systemdUnit", [("spec.selectors.systemdUnit", "web-0.service")]),
        ("spec.ports[]", [("spec.ports[0]", 80), ("spec.ports[1]", 81)]),
        ("spec.appAddress", []),
        ("spec.nothing.below", []),
        ("spec.nothing[].below", []),
    ],
)
def test_a_field_is_read_by_its_path(field: str, found: list[tuple[str, Any]]) -> None:
    document = workload(ports=[80, 81])
    assert list(read(document, field)) == found
    assert list(read(parse(document), field)) == found


def test_references_in_lists_name_their_place_and_namespace() -> None:
    backends = ReferenceField(field="spec.rules[].backendRefs[]", kind="Service", in_use="", section="")
    assert list(backends.targets(ROUTE, "shop")) == [
        ("spec.rules[0].backendRefs[0]", "shop", "a"),
        ("spec.rules[0].backendRefs[1]", "pay", "b"),
        ("spec.rules[2].backendRefs[0]", "shop", "c"),
    ]


@pytest.mark.parametrize(
    ("reach", "namespace", "wanted", "other", "selects"),
    [
        (Reach.NAMESPACE, "shop", {"app": "web"}, "shop", True),
        (Reach.NAMESPACE, ROOT, {"app": "web"}, "shop", False),
        (Reach.ROOT, ROOT, {"app": "web"}, "shop", True),
        (Reach.ROOT, ROOT, {}, "shop", True),
        (Reach.ROOT, "pay", {}, "shop", False),
        (Reach.ROOT_DEFAULT, ROOT, {}, "shop", True),
        (Reach.ROOT_DEFAULT, ROOT, {"app": "web"}, "shop", False),
        (Reach.ROOT_DEFAULT, ROOT, {"app": "web"}, ROOT, True),
        (Reach.ROOT, "shop", {"app": "db"}, "shop", False),
    ],
)
def test_how_far_a_selector_reaches(
    reach: Reach, namespace: str, wanted: dict[str, str], other: str, selects: bool
) -> None:
    assert Selector(reach=reach, section="").selects(namespace, wanted, other, {"app": "web"}) is selects


@pytest.mark.parametrize("spec", [{}, {"selector": {}}, {"selector": {"matchLabels": {}}}])
def test_a_selector_without_labels_wants_none(spec: dict[str, Any]) -> None:
    assert Selector(section="").wanted(policy(**spec)) == {}
    assert Selector(section="").wanted(parse(policy(**spec))) == {}
