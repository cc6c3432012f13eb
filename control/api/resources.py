"""Requests over any kinds of resources, for operators: apply and delete, altogether or not at all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError

from control.api.callers import Operator
from control.api.context import Ctx
from control.kinds.base.model import DEFAULT_NAMESPACE
from control.kinds.known import KINDS
from control.registry.registry import MAX_OBJECTS, Outcome

MAX_NAME_CHARACTERS = 63


def _known_kind(value: Any) -> Any:
    if isinstance(value, str) and value in KINDS:
        return value
    # In the words of pydantic's Literal.
    *names, last = (repr(name) for name in KINDS.names)
    expected = f"{', '.join(names)} or {last}"
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


class _KindSchema:
    """The kinds as an enumeration, read when the API is described."""

    @staticmethod
    def __get_pydantic_json_schema__(_: CoreSchema, __: Any) -> dict[str, Any]:
        return {"type": "string", "enum": list(KINDS.names)}


KindName = Annotated[str, BeforeValidator(_known_kind), _KindSchema()]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, serialize_by_alias=True, populate_by_name=True)


class ApplyRequest(_Body):
    """Resources of any kinds, in any order."""

    objects: list[Any] = Field(max_length=MAX_OBJECTS)
    dry_run: bool = False


class Reference(_Body):
    """Names a resource; with ``resourceVersion`` only as it was then."""

    kind: KindName
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
    return (namespace or DEFAULT_NAMESPACE) if KINDS[kind].namespaced else ""


def _results(outcomes: list[Outcome]) -> Results:
    return Results(
        results=[
            Result(
                kind=o.resource.kind,
                namespace=o.resource.namespace,
                name=o.resource.name,
                action=o.action,
                resource_version=o.resource.metadata.resource_version,
            )
            for o in outcomes
        ]
    )
