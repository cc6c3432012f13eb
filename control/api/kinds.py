"""Single resources by path, and lists of a kind, for operators: the same routes for every kind."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import JSONResponse
from pydantic import create_model

from control.api.callers import Operator
from control.api.context import Context, Ctx
from control.api.resources import MAX_NAME_CHARACTERS
from control.kinds.base.fault import Fault
from control.kinds.base.kind import Kind
from control.kinds.known import KINDS
from control.registry.errors import Invalid

NamePath = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS)]
VersionQuery = Annotated[str | None, Query(alias="resourceVersion", max_length=32)]
NamespaceQuery = Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)]


def kind_routes() -> APIRouter:
    """The routes of every kind."""
    router = APIRouter(tags=["resources"])
    for kind in KINDS:
        _collection(router, kind)
        (_namespaced if kind.namespaced else _cluster_wide)(router, kind)
    return router


def _collection(router: APIRouter, kind: Kind[Any]) -> None:
    items: Any = list[kind.model]  # type: ignore[name-defined]
    answer = create_model(f"{kind.name}List", revision=(int, ...), items=(items, ...))

    @router.get(
        f"/v1/{kind.plural}", response_model=answer, name=f"list {kind.plural}", operation_id=f"list_{kind.plural}"
    )
    def read_all(context: Ctx, _: Operator, namespace: NamespaceQuery = None) -> Any:
        catalogue = context.registry.catalogue()
        found = catalogue.of(kind, namespace if kind.namespaced else None)
        return JSONResponse({"revision": catalogue.revision, "items": [r.document() for r in found]})


def _namespaced(router: APIRouter, kind: Kind[Any]) -> None:
    where = f"/v1/namespaces/{{namespace}}/{kind.plural}/{{name}}"
    get, put, delete = (_options(kind, verb) for verb in ("get", "put", "delete"))

    @router.get(where, response_model=kind.model, **get)
    def read(namespace: NamePath, name: NamePath, context: Ctx, _: Operator) -> Any:
        return JSONResponse(context.registry.get(kind.name, namespace, name).document())

    @router.put(where, response_model=kind.model, **put)
    def write(namespace: NamePath, name: NamePath, value: Annotated[Any, Body()], context: Ctx, _: Operator) -> Any:
        return _put(context, kind, namespace, name, value)

    @router.delete(where, status_code=204, **delete)
    def remove(namespace: NamePath, name: NamePath, context: Ctx, _: Operator, version: VersionQuery = None) -> None:
        context.registry.delete([((kind.name, namespace, name), version)])


def _cluster_wide(router: APIRouter, kind: Kind[Any]) -> None:
    where = f"/v1/{kind.plural}/{{name}}"
    get, put, delete = (_options(kind, verb) for verb in ("get", "put", "delete"))

    @router.get(where, response_model=kind.model, **get)
    def read(name: NamePath, context: Ctx, _: Operator) -> Any:
        return JSONResponse(context.registry.get(kind.name, "", name).document())

    @router.put(where, response_model=kind.model, **put)
    def write(name: NamePath, value: Annotated[Any, Body()], context: Ctx, _: Operator) -> Any:
        return _put(context, kind, "", name, value)

    @router.delete(where, status_code=204, **delete)
    def remove(name: NamePath, context: Ctx, _: Operator, version: VersionQuery = None) -> None:
        context.registry.delete([((kind.name, "", name), version)])


def _options(kind: Kind[Any], verb: str) -> dict[str, Any]:
    return {"name": f"{verb} {kind.name}", "operation_id": f"{verb}_{kind.name}"}


def _put(context: Context, kind: Kind[Any], namespace: str, name: str, value: Any) -> Any:
    """Apply one object under the name of its path."""
    if isinstance(value, dict) and value.get("kind") != kind.name:
        raise Invalid([Fault(f"expected {kind.name}, found {value.get('kind')!r}", "kind")])
    if isinstance(value, dict) and isinstance(value.get("metadata"), dict):
        metadata = value["metadata"]
        for field, wanted in (("name", name), ("namespace", namespace)):
            if wanted and metadata.get(field) not in (None, wanted):
                raise Invalid([Fault(f"{metadata[field]!r} differs from the path's {wanted!r}", f"metadata.{field}")])
        value = {**value, "metadata": {**metadata, "name": name, **({"namespace": namespace} if namespace else {})}}
    return JSONResponse(context.registry.apply([value])[0].resource.document())
