"""What agents are told follows from what operators declared, and from nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from control.kinds.base.mesh import Mesh
from control.kinds.known import KINDS
from control.kinds.workload import identities_of
from control.registry.catalogue import Catalogue
from control.watch.projection import project
from control.wire.discovery import (
    Action,
    AppProtocol,
    AuthorizationPolicy,
    MeshSettings,
    MtlsMode,
    OperationMatch,
    PolicyRule,
    Service,
    ServicePort,
    SourceMatch,
    TrustBundle,
    Workload,
)
from tests.support.mesh import Object, egress, make_registry, mesh_config, node, peer, policy, service, workload

MESH = Mesh(trust_domain="mesh.internal", cluster="lab", roots=("PEM",))
ROOT = "nodemesh-system"


def catalogue(*requests: Any) -> Catalogue:
    """Each argument is one request (an object, or a list of them) and so one revision."""
    registry, _ = make_registry()
    registry.apply([node()])
    for request in requests:
        registry.apply(request if isinstance(request, list) else [request])
    return registry.catalogue()


def told(kind: type[Any], *requests: Any) -> list[Any]:
    return [o for o in project(catalogue(*requests), MESH).values() if isinstance(o, kind)]


def told_workload(*requests: Any) -> Workload:
    found: list[Workload] = told(Workload, *requests)
    return next(w for w in found if w.name == "web-0")


def test_a_workload_in_full() -> None:
    made = told_workload(
        workload("web-0", {"app": "web", "version": "v1"}, appAddress="127.0.0.1", ports=[9000], serviceAccount="front")
    )
    assert (made.uid, made.node, made.namespace) == ("shop/web-0@2", "node-a", "shop")
    assert made.identity == "spiffe://mesh.internal/ns/shop/sa/front"
    assert made.service_account == "front"
    assert made.addresses == ("10.0.0.1", "fd00::1"), "its node's"
    assert made.app_address == "127.0.0.1"
    assert made.selectors.systemd_unit == "web-0.service" and made.selectors.cgroup_path is None
    assert made.sni == "web-0.shop.workload.mesh.internal"
    assert (made.ports, made.cluster, made.labels) == ((9000,), "lab", {"app": "web", "version": "v1"})
    assert made.policies == () and made.mtls_mode is MtlsMode.PERMISSIVE


def test_its_own_addresses_win_over_its_nodes() -> None:
    assert told_workload(workload(addresses=["::ffff:10.0.0.9"])).addresses == ("10.0.0.9",)


def test_target_ports_of_its_services_are_its_ports() -> None:
    other = service("other", selector={"app": "other"}, ports=[{"port": 5}])
    admin = service("admin", ports=[{"port": 81, "targetPort": 9001}])
    assert told_workload(workload(ports=[9000]), [service(), other, admin]).ports == (8080, 9000, 9001)


def test_a_service_in_full() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}, {"port": 6379}]
    requests = [
        workload("web-1", addresses=["10.0.0.3"]),
        workload("web-0"),
        workload("db-0", {"app": "db"}),
        workload("web-0", namespace="else", selectors={"cgroupPath": "/else"}),
        service(ports=ports),
    ]
    (made,) = told(Service, *requests)
    assert made == Service(
        uid="shop/web@6",
        name="web",
        namespace="shop",
        hostname="web.shop.mesh.internal",
        addresses=("240.240.0.1", "fd6d:6573:68::1"),
        ports=(
            ServicePort(name="http", port=80, target_port=8080, protocol=AppProtocol.HTTP),
            ServicePort(name="tcp-6379", port=6379, target_port=6379),
        ),
        endpoints=("shop/web-0@3", "shop/web-1@2"),
    )


def test_a_policy_in_full() -> None:
    source = {
        "principals": ["*/sa/web"],
        "notPrincipals": ["*"],
        "namespaces": ["a"],
        "notNamespaces": ["b"],
        "ipBlocks": ["10.1.0.0/8"],
        "notIpBlocks": ["::1"],
    }
    rules = [{"from": [{"source": source}], "to": [{"operation": {"ports": ["80"], "notPorts": ["81"]}}]}, {}]
    (made,) = told(AuthorizationPolicy, policy(action="DENY", rules=rules))
    assert made == AuthorizationPolicy(
        uid="shop/deny@2",
        name="deny",
        namespace="shop",
        action=Action.DENY,
        rules=(
            PolicyRule(
                sources=(
                    SourceMatch(
                        principals=("*/sa/web",),
                        not_principals=("*",),
                        namespaces=("a",),
                        not_namespaces=("b",),
                        ip_blocks=("10.0.0.0/8",),
                        not_ip_blocks=("::1/128",),
                    ),
                ),
                operations=(OperationMatch(ports=(80,), not_ports=(81,)),),
            ),
            PolicyRule(),
        ),
    )


def test_a_policy_without_rules_admits_nobody() -> None:
    (made,) = told(AuthorizationPolicy, policy())
    assert (made.action, made.rules) == (Action.ALLOW, ())


@pytest.mark.parametrize(
    ("made", "selects"),
    [
        (policy(), True),
        (policy(selector={"matchLabels": {}}), True),
        (policy(selector={"matchLabels": {"app": "web"}}), True),
        (policy(selector={"matchLabels": {"app": "web", "version": "v1"}}), False),
        (policy(selector={"matchLabels": {"app": "db"}}), False),
        (policy(namespace="else"), False),
        (policy(namespace=ROOT), True),
        (policy(namespace=ROOT, selector={"matchLabels": {"app": "web"}}), True),
        (policy(namespace=ROOT, selector={"matchLabels": {"app": "db"}}), False),
    ],
)
def test_which_policies_select_a_workload(made: Object, selects: bool) -> None:
    uid = f"{made['metadata']['namespace']}/deny@3"
    assert told_workload(workload(), made).policies == ((uid,) if selects else ())


def test_a_workload_of_the_root_namespace_names_its_policies_once() -> None:
    (made,) = told(Workload, workload(namespace=ROOT), policy(namespace=ROOT))
    assert made.policies == (f"{ROOT}/deny@3",)


WEB: dict[str, Any] = {"selector": {"matchLabels": {"app": "web"}}}


@pytest.mark.parametrize(
    ("peers", "mode"),
    [
        ([], "PERMISSIVE"),
        ([peer("mesh", "STRICT", ROOT)], "STRICT"),
        ([peer("mesh", "STRICT", ROOT), peer("ns", "PERMISSIVE")], "PERMISSIVE"),
        ([peer("mesh", "STRICT", ROOT), peer("ns", "PERMISSIVE"), peer("own", "DISABLE", **WEB)], "DISABLE"),
        ([peer("ns", "STRICT"), peer("own", "UNSET", **WEB)], "STRICT"),
        ([peer("ns", "STRICT"), peer("own", "DISABLE", selector={"matchLabels": {"app": "db"}})], "STRICT"),
        ([peer("ns", "STRICT", "else")], "PERMISSIVE"),
        ([peer("own", "STRICT", ROOT, **WEB)], "PERMISSIVE"),
        ([peer("empty", "STRICT", selector={"matchLabels": {}})], "STRICT"),
        ([peer("b-first", "STRICT"), peer("a-second", "DISABLE")], "STRICT"),
    ],
)
def test_the_narrowest_peer_authentication_wins_then_the_oldest(peers: list[Object], mode: str) -> None:
    assert told_workload(workload(), *peers).mtls_mode is MtlsMode(mode)


@pytest.mark.parametrize(
    ("peers", "modes"),
    [
        ([], {}),
        ([peer("own", "STRICT", **WEB, portLevelMtls={"8080": {"mode": "DISABLE"}})], {"8080": "DISABLE"}),
        ([peer("own", "STRICT", **WEB, portLevelMtls={"8080": {"mode": "UNSET"}, "9": {}})], {}),
        (
            [
                peer("b-first", "UNSET", **WEB, portLevelMtls={"8080": {"mode": "PERMISSIVE"}}),
                peer("a-second", "STRICT", **WEB, portLevelMtls={"8080": {"mode": "DISABLE"}, "9": {"mode": "STRICT"}}),
            ],
            {"8080": "PERMISSIVE", "9": "STRICT"},
        ),
        ([peer("own", namespace=ROOT, **WEB, portLevelMtls={"8080": {"mode": "DISABLE"}})], {}),
    ],
)
def test_modes_of_single_ports(peers: list[Object], modes: dict[str, str]) -> None:
    assert told_workload(workload(), *peers).port_mtls_modes == modes


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        ([], ("ALLOW_ANY", "")),
        ([egress("all", "REGISTRY_ONLY", namespace=ROOT)], ("REGISTRY_ONLY", "nodemesh-system/all")),
        (
            [egress("all", "REGISTRY_ONLY", namespace=ROOT), egress("ns", "ALLOW_ANY")],
            ("ALLOW_ANY", "shop/ns"),
        ),
        ([egress("ns", "ALLOW_ANY"), egress("own", "REGISTRY_ONLY", **WEB)], ("REGISTRY_ONLY", "shop/own")),
        ([egress("b-first", "REGISTRY_ONLY"), egress("a-second", "ALLOW_ANY")], ("REGISTRY_ONLY", "shop/b-first")),
        ([egress("else", "REGISTRY_ONLY", namespace="bank")], ("ALLOW_ANY", "")),
        ([egress("else", "REGISTRY_ONLY", selector={"matchLabels": {"app": "db"}})], ("ALLOW_ANY", "")),
        ([egress("root", "REGISTRY_ONLY", namespace=ROOT, **WEB)], ("ALLOW_ANY", "")),
    ],
)
def test_the_narrowest_egress_policy_wins_then_the_oldest(policies: list[Object], wanted: tuple[str, str]) -> None:
    made = told_workload(workload(), *policies)
    assert (made.egress_mode.value, made.egress_policy.partition("@")[0]) == wanted


def test_ports_for_probes_are_told() -> None:
    assert told_workload(workload(probePorts=[8080])).probe_ports == (8080,)


@pytest.mark.parametrize(
    ("labels", "service_name", "revision", "app", "version"),
    [
        ({}, "web-0", "latest", "web-0", "latest"),
        ({"app": "a", "version": "1"}, "a", "1", "a", "1"),
        (
            {"app": "a", "app.kubernetes.io/name": "k", "app.kubernetes.io/version": "2", "version": "1"},
            "k",
            "2",
            "a",
            "1",
        ),
        (
            {
                "service.istio.io/canonical-name": "c",
                "service.istio.io/canonical-revision": "3",
                "app.kubernetes.io/name": "k",
                "app.kubernetes.io/version": "2",
            },
            "c",
            "3",
            "k",
            "2",
        ),
        ({"app": ""}, "web-0", "latest", "web-0", "latest"),
    ],
)
def test_canonical_labels_are_never_unknown(
    labels: dict[str, str],
    service_name: str,
    revision: str,
    app: str,
    version: str,
) -> None:
    made = told_workload(workload(labels=labels))
    assert (made.canonical_service, made.canonical_revision) == (service_name, revision)
    assert (made.app, made.version) == (app, version)


def test_the_bundle_is_always_there() -> None:
    assert told(TrustBundle) == [TrustBundle(uid="mesh.internal", certificates=("PEM",))]


def test_identities_are_those_of_the_node_only() -> None:
    made = catalogue(node("node-b", "10.0.0.2"), workload(), workload("db-0", {}, node="node-b", serviceAccount="db"))
    assert identities_of(made, "node-a", "mesh.internal") == {"spiffe://mesh.internal/ns/shop/sa/web"}
    assert identities_of(made, "node-b", "mesh.internal") == {"spiffe://mesh.internal/ns/shop/sa/db"}
    assert identities_of(made, "node-c", "mesh.internal") == frozenset()


def test_labels_say_what_becomes_of_live_flows() -> None:
    quiet = {"app": "web", "nodemesh.io/splice": "off", "nodemesh.io/idle-timeout": "15m"}
    made = told_workload(workload(labels=quiet))
    assert (made.splice, made.idle_timeout) == (False, 900)
    made = told_workload(workload(labels={"nodemesh.io/splice": "on", "nodemesh.io/idle-timeout": "off"}))
    assert (made.splice, made.idle_timeout) == (True, 0)
    made = told_workload(workload())
    assert (made.splice, made.idle_timeout) == (True, None)
    labelled = service()
    labelled["metadata"]["labels"] = quiet
    (told_service,) = told(Service, labelled)
    assert (told_service.splice, told_service.idle_timeout) == (False, 900)
    assert told_service.connect_timeout is None
    labelled["metadata"]["labels"] = {"nodemesh.io/connect-timeout": "7s"}
    assert [each.connect_timeout for each in told(Service, labelled)] == [7]


def test_a_label_that_an_older_control_let_in_says_nothing() -> None:
    stored = catalogue(workload())
    (found,) = stored.of(KINDS["Workload"])
    labels = {"nodemesh.io/splice": "no", "nodemesh.io/idle-timeout": "soon"}
    changed = found.model_copy(update={"metadata": found.metadata.model_copy(update={"labels": labels})})
    objects = project(stored.with_changes([changed]), MESH)
    (made,) = (item for item in objects.values() if isinstance(item, Workload))
    assert (made.splice, made.idle_timeout) == (True, None)


@pytest.mark.parametrize(
    ("spec", "splice", "seconds"),
    [
        ({}, True, 0),
        ({"splice": False}, False, 0),
        ({"idleTimeout": "1h"}, True, 3600),
        ({"idleTimeout": False}, True, 0),
        ({"idleTimeout": 0}, True, 0),
    ],
)
def test_what_holds_in_the_whole_mesh(spec: Object, splice: bool, seconds: int) -> None:
    (settings,) = told(MeshSettings, mesh_config(**spec))
    assert (settings.splice, settings.idle_timeout, settings.domain) == (splice, seconds, "mesh.internal")


def test_where_nothing_is_said_nothing_is_cut_and_flows_are_spliced() -> None:
    (settings,) = told(MeshSettings)
    assert (settings.splice, settings.idle_timeout, settings.connect_timeout) == (True, 0, 3)
    (settings,) = told(MeshSettings, mesh_config(connectTimeout="10s"))
    assert settings.connect_timeout == 10
