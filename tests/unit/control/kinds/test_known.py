"""Every file of the package is a kind, and a kind that exists only here is handled like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from control.api.app import create_app
from control.cli import describe, resources
from control.cli.client import ControlError
from control.kinds import known
from control.kinds.base.fault import Fault
from control.kinds.base.fields import Name
from control.kinds.base.kind import Kind, Lookup, Proposal, Refinement, Section, TakeAddresses, View
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import LabelSelector, Model, Resource
from control.kinds.base.relations import Object, ReferenceField, Selector
from control.kinds.known import KINDS
from control.registry.catalogue import Catalogue
from control.registry.errors import Invalid
from control.watch.projection import project
from control.wire.discovery import Workload
from tests.support.mesh import node, resource, workload
from tests.unit.control.api.desk import Desk

MESH = Mesh(trust_domain="mesh.internal", cluster="lab", roots=("PEM",))


class MirrorSpec(Model):
    """Copies of connections go to another workload."""

    selector: LabelSelector | None = None
    to: Name
    percent: int = 100


class MirrorStatus(Model):
    """Written by the server."""

    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WireMirror:
    """As agents receive it."""

    KIND: ClassVar[str] = "mirror"
    uid: str
    target: str
    sources: tuple[str, ...]


def _check(proposal: Proposal) -> Iterable[Fault]:
    seen: dict[str, Resource[MirrorSpec]] = {}
    for mirror in proposal.view.of(MIRROR):
        other = seen.setdefault(mirror.spec.to, mirror)
        if other is not mirror:
            yield proposal.clash(mirror, other, "spec.to", f"both mirror to {mirror.spec.to}")


def _allocate(mirror: Resource[MirrorSpec], take: TakeAddresses) -> Resource[MirrorSpec]:
    return mirror if _addresses(mirror) else mirror.model_copy(update={"status": MirrorStatus(addresses=take())})


def _addresses(mirror: Resource[MirrorSpec]) -> tuple[str, ...]:
    status = mirror.status_of(MirrorStatus)
    return status.addresses if status else ()


def _project(mirror: Resource[MirrorSpec], view: View, _: Mesh) -> Iterable[WireMirror]:
    sources = tuple(w.uid for w in view.selected(mirror, KINDS["Workload"]))
    yield WireMirror(uid=mirror.uid, target=mirror.spec.to, sources=sources)


def _refine(source: Resource[Any], view: View) -> dict[str, Any]:
    return {"splice": False} if view.selecting(MIRROR, source) else {}


def _percent(document: Object) -> str:
    return f"{document['spec'].get('percent', 100)}%"


def _trust(_: Object, lookup: Lookup) -> list[str]:
    return [f"within {lookup.trust_domain()}"]


MIRROR = Kind(
    name="Mirror",
    plural="mirrors",
    aliases=("mi",),
    doc="Copies of connections.",
    order=45,
    spec=MirrorSpec,
    status=MirrorStatus,
    name_fault=lambda name: "one is enough" if name == "second" else None,
    unsupported={"from": "name the source by selector"},
    checks=(_check,),
    references=(
        ReferenceField(field="spec.to", kind="Workload", in_use="mirrors copy to it", section="mirrors to it"),
    ),
    selector=Selector(section="mirrors of it"),
    virtual_addresses=_addresses,
    allocate=_allocate,
    wire=WireMirror,
    project=_project,
    refinements=(Refinement(of=Workload, fields=_refine),),
    columns=(("TO", lambda o: str(o["spec"]["to"])),),
    wide=(("PERCENT", _percent),),
    sections=(Section(title="scope", lines=_trust),),
    remark=lambda o: f"({_percent(o)})",
)


def mirror(name: str = "all", to: str = "web-1", **spec: Any) -> Object:
    return resource("Mirror", name, {"to": to, "selector": {"matchLabels": {"app": "web"}}, **spec})


@pytest.fixture
def desk() -> Iterator[Desk]:
    with KINDS.extended(MIRROR):
        desk = Desk()
        desk.apply(node(), workload(), workload("web-1", {}, ports=[1]))
        yield desk


def catalogue(desk: Desk) -> Catalogue:
    return desk.registry.catalogue()


def faults(desk: Desk, *values: Object) -> list[str]:
    with pytest.raises(Invalid) as refusal:
        desk.registry.apply(values)
    return [str(fault) for fault in refusal.value.faults]


class DeskClient:
    """meshctl's client, over the desk's API."""

    def __init__(self, desk: Desk) -> None:
        self._operator = desk.operator()

    def get(self, path: str, **query: str | None) -> Any:
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, body: Any) -> Any:
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._operator.request(method, path, **options)
        if not answer.is_success:
            raise ControlError(answer.json()["detail"], answer.status_code)
        return answer.json()


def run(desk: Desk, command: Any, *arguments: str) -> str:
    result: Result = CliRunner().invoke(command, arguments, obj=DeskClient(desk), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_file_of_the_package_is_a_kind() -> None:
    files = {path.stem for path in Path(known.__file__).parent.glob("[!_]*.py")} - {"known"}
    assert {kind.name.lower() for kind in KINDS} == {file.replace("_", "") for file in files}
    assert all(kind.spec.__module__.startswith("control.kinds.") for kind in KINDS)


def test_names_are_unique() -> None:
    clash = Kind(name="Policy", plural="policyen", doc="", order=1, spec=MirrorSpec)
    with pytest.raises(ValueError, match="Policy and AuthorizationPolicy share a name: policy"), KINDS.extended(clash):
        pass
    assert "Policy" not in KINDS and "Mirror" not in KINDS


def test_it_is_parsed_and_its_mistakes_are_named(desk: Desk) -> None:
    assert faults(desk, mirror(percent="x")) == [
        "Mirror shop/all: spec.percent: Input should be a valid integer, unable to parse string as an integer"
    ]
    assert faults(desk, mirror("second")) == ["Mirror shop/second: metadata.name: one is enough"]
    assert faults(desk, mirror(**{"from": "x"})) == ["Mirror shop/all: spec.from: name the source by selector"]
    assert "Service, Mirror, ServiceEntry" in faults(desk, {"kind": "Pod"})[0]


def test_its_rules_and_references_hold(desk: Desk) -> None:
    assert faults(desk, mirror(to="db")) == [
        "Mirror shop/all: spec.to: there is no Workload 'shop/db'; apply it first, or in the same request"
    ]
    assert "both mirror to web-1" in faults(desk, mirror(), mirror("other"))[0]
    desk.apply(mirror())
    with pytest.raises(Invalid, match=r"metadata\.name: mirrors copy to it: shop/all; delete them"):
        desk.registry.delete([(("Workload", "shop", "web-1"), None)])
    desk.registry.delete([(("Workload", "shop", "web-1"), None), (("Mirror", "shop", "all"), None)])


def test_it_is_stored_and_keeps_its_virtual_addresses(desk: Desk) -> None:
    desk.apply(mirror())
    first = desk.registry.get("Mirror", "shop", "all")
    assert _addresses(first) == ("240.240.0.1", "fd6d:6573:68::1")
    desk.apply(mirror(percent=10))
    again = desk.registry.get("Mirror", "shop", "all")
    assert (again.uid, again.spec.percent, _addresses(again)) == (first.uid, 10, _addresses(first))
    assert desk.store.range("/resources/mirrors/shop/").items


def test_it_is_projected_and_refines_others(desk: Desk) -> None:
    desk.apply(mirror())
    uid = desk.registry.get("Mirror", "shop", "all").uid
    objects = project(catalogue(desk), MESH)
    assert objects["mirror", uid] == WireMirror(
        uid=uid, target="web-1", sources=(desk.registry.get("Workload", "shop", "web-0").uid,)
    )
    assert {o.name: o.splice for o in objects.values() if isinstance(o, Workload)} == {"web-0": False, "web-1": True}
    session = desk.hub.open("node-a", None, None, lambda: None)
    _, line = asyncio.run(session.next(5)) or (0, b"")
    assert b'"kind":"mirror"' in line, "agents receive it"


def test_the_api_serves_and_describes_it(desk: Desk) -> None:
    operator = desk.operator()
    where = "/v1/namespaces/shop/mirrors/all"
    assert operator.put(where, json=mirror()).status_code == 200
    assert operator.get(where).json()["spec"]["to"] == "web-1"
    assert [item["kind"] for item in operator.get("/v1/mirrors").json()["items"]] == ["Mirror"]
    desk.sync()
    assert operator.get("/v1/status").json()["resources"]["Mirror"] == 1
    reference = {"objects": [{"kind": "Mirror", "namespace": "shop", "name": "all"}]}
    assert operator.post("/v1/delete", json=reference).json()["results"][0]["action"] == "deleted"
    described = create_app(None).openapi()
    assert {"get", "put", "delete"} <= set(described["paths"]["/v1/namespaces/{namespace}/mirrors/{name}"])
    assert described["components"]["schemas"]["Mirror"]["description"] == "Copies of connections."
    assert "Mirror" in described["components"]["schemas"]["Reference"]["properties"]["kind"]["enum"]


def test_meshctl_lists_and_describes_it(desk: Desk) -> None:
    desk.apply(mirror(percent=5))
    header, row = run(desk, resources.get, "mi", "-o", "wide").splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "TO", "PERCENT", "AGE"]
    assert row.split()[:4] == ["shop", "all", "web-1", "5%"]
    assert run(desk, resources.get, "mirrors", "-o", "name") == "Mirror shop/all\n"
    own = run(desk, describe.describe, "mirror", "shop/all")
    assert "\nscope:\n  within mesh.internal\n" in own
    assert "\nworkloads that it selects:\n  shop/web-0 on node-a\n" in own
    assert "\nmirrors of it:\n  shop/all (5%)\n" in run(desk, describe.describe, "workload", "shop/web-0")
    assert "\nmirrors to it:\n  shop/all (5%)\n" in run(desk, describe.describe, "workload", "shop/web-1")


def test_afterwards_nobody_knows_it() -> None:
    assert "Mirror" not in KINDS and KINDS.find("mi") is None
    assert "/v1/mirrors" not in create_app(None).openapi()["paths"]
