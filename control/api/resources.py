"""Resources, for operators: whole requests (apply, delete) that happen altogether or not at all, and single objects
by path."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from control.api.callers import Operator
from control.api.context import Context, Ctx
from control.registry.errors import Fault, Invalid
from control.registry.model import Resource
from control.registry.parse import KINDS
from control.registry.registry import MAX_OBJECTS, Outcome

MAX_NAME_CHARACTERS = 63

NamePath = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS)]
VersionQuery = Annotated[str | None, Query(alias="resourceVersion", max_length=32)]
NamespaceQuery = Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, serialize_by_alias=True, populate_by_name=True)


class ApplyRequest(_Body):
    """Resources of any kinds, in any order."""

    objects: list[Any] = Field(max_length=MAX_OBJECTS)
    dry_run: bool = False


class Reference(_Body):
    """Names a resource; with ``resourceVersion`` only as it was then."""

    kind: Literal[
        "MeshConfig", "Node", "Workload", "Service", "ServiceEntry", "AuthorizationPolicy", "PeerAuthentication",
        "EgressPolicy",
    ]  # fmt: skip
    namespace: str | None = Field(default=None, max_length=MAX_NAME_CHARACTERS)
    name: str = Field(max_length=MAX_NAME_CHARACTERS)
    resource_version: str | None = Field(default=None, max_length=32)


class DeleteRequest(_Body):
    """Resources to remove."""

    objects: list[Reference] = Field(max_length=MAX_OBJECTS)
    ignore_missing: bool = False


class Result(_Body):
    """What became of one object."""

    kind: str
    namespace: str
    name: str
    action: Literal["created", "configured", "unchanged", "deleted"]
    resource_version: str | None


class Results(_Body):
    """In the order of the request."""

    results: list[Result]


router = APIRouter(tags=["resources"])


@router.post("/v1/apply")
def apply(body: ApplyRequest, context: Ctx, _: Operator) -> Results:
    """Create or update all of them, or none."""
    return _results(context.registry.apply(body.objects, dry_run=body.dry_run))


@router.post("/v1/delete")
def delete(body: DeleteRequest, context: Ctx, _: Operator) -> Results:
    """Delete all of them, or none."""
    keys = [((o.kind, _namespace(o.kind, o.namespace), o.name), o.resource_version) for o in body.objects]
    return _results(context.registry.delete(keys, ignore_missing=body.ignore_missing))


def _namespace(kind: str, namespace: str | None) -> str:
    return (namespace or "default") if KINDS[kind].NAMESPACED else ""


def _results(outcomes: list[Outcome]) -> Results:
    return Results(
        results=[
            Result(
                kind=o.resource.KIND,
                namespace=o.resource.namespace,
                name=o.resource.name,
                action=o.action,
                resource_version=o.resource.metadata.resource_version,
            )
            for o in outcomes
        ]
    )


def _put(context: Context, cls: type[Resource], namespace: str, name: str, value: Any) -> Any:
    """Apply one object under the name of its path."""
    if isinstance(value, dict) and value.get("kind") != cls.KIND:
        raise Invalid([Fault(f"expected {cls.KIND}, found {value.get('kind')!r}", "kind")])
    if isinstance(value, dict) and isinstance(value.get("metadata"), dict):
        metadata = value["metadata"]
        for field, wanted in (("name", name), ("namespace", namespace)):
            if wanted and metadata.get(field) not in (None, wanted):
                raise Invalid([Fault(f"{metadata[field]!r} differs from the path's {wanted!r}", f"metadata.{field}")])
        value = {**value, "metadata": {**metadata, "name": name, **({"namespace": namespace} if namespace else {})}}
    return JSONResponse(context.registry.apply([value])[0].resource.document())


def _collection(cls: type[Resource]) -> None:
    """GET of all of a kind."""
    answer = create_model(f"{cls.KIND}List", revision=(int, ...), items=(list[cls], ...))  # type: ignore[valid-type]

    @router.get(
        f"/v1/{cls.PLURAL}", response_model=answer, name=f"list {cls.PLURAL}", operation_id=f"list_{cls.PLURAL}"
    )
    def read_all(context: Ctx, _: Operator, namespace: NamespaceQuery = None) -> Any:
        catalogue = context.registry.catalogue()
        found = catalogue.of(cls, namespace if cls.NAMESPACED else None)
        return JSONResponse({"revision": catalogue.revision, "items": [r.document() for r in found]})


def _namespaced(cls: type[Resource]) -> None:
    where = f"/v1/namespaces/{{namespace}}/{cls.PLURAL}/{{name}}"
    options: dict[str, Any] = {"response_model": cls}

    @router.get(where, name=f"get {cls.KIND}", operation_id=f"get_{cls.KIND}", **options)
    def read(namespace: NamePath, name: NamePath, context: Ctx, _: Operator) -> Any:
        return JSONResponse(context.registry.get(cls.KIND, namespace, name).document())

    @router.put(where, name=f"put {cls.KIND}", operation_id=f"put_{cls.KIND}", **options)
    def put(namespace: NamePath, name: NamePath, value: Annotated[Any, Body()], context: Ctx, _: Operator) -> Any:
        return _put(context, cls, namespace, name, value)

    @router.delete(where, name=f"delete {cls.KIND}", operation_id=f"delete_{cls.KIND}", status_code=204)
    def remove(namespace: NamePath, name: NamePath, context: Ctx, _: Operator, version: VersionQuery = None) -> None:
        context.registry.delete([((cls.KIND, namespace, name), version)])


def _cluster_wide(cls: type[Resource]) -> None:
    where = f"/v1/{cls.PLURAL}/{{name}}"
    options: dict[str, Any] = {"response_model": cls}

    @router.get(where, name=f"get {cls.KIND}", operation_id=f"get_{cls.KIND}", **options)
    def read(name: NamePath, context: Ctx, _: Operator) -> Any:
        return JSONResponse(context.registry.get(cls.KIND, "", name).document())

    @router.put(where, name=f"put {cls.KIND}", operation_id=f"put_{cls.KIND}", **options)
    def put(name: NamePath, value: Annotated[Any, Body()], context: Ctx, _: Operator) -> Any:
        return _put(context, cls, "", name, value)

    @router.delete(where, name=f"delete {cls.KIND}", operation_id=f"delete_{cls.KIND}", status_code=204)
    def remove(name: NamePath, context: Ctx, _: Operator, version: VersionQuery = None) -> None:
        context.registry.delete([((cls.KIND, "", name), version)])


for _kind in KINDS.values():
    _collection(_kind)
    (_namespaced if _kind.NAMESPACED else _cluster_wide)(_kind)
