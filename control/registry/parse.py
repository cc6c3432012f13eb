"""From a JSON value to a resource, with every mistake named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from control.kinds.base.fault import Fault
from control.kinds.base.kind import Kind
from control.kinds.base.model import DEFAULT_NAMESPACE, Resource
from control.kinds.known import KINDS

MAX_FAULTS_PER_OBJECT = 20


def parse(value: Any, index: int = 0) -> Resource[Any] | list[Fault]:
    """The resource, or what is wrong with it. ``index`` is copied into the faults."""
    if not isinstance(value, Mapping):
        wanted = "expected an object with apiVersion, kind, metadata and spec"
        return [Fault(f"{wanted}, found {_type(value)}", index=index)]
    name = value.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        found = "it is missing" if name is None else f"found {str(name)[:80]!r}"
        return [Fault(f"{found}; known kinds: {', '.join(KINDS.names)}", "kind", index, _subject(value))]
    kind = KINDS[name]
    subject = _subject(value)
    version = value.get("apiVersion")
    if version not in kind.api_versions:
        found = "it is missing" if version is None else f"found {str(version)[:80]!r}"
        return [Fault(f"{found}; write {' or '.join(kind.api_versions)}", "apiVersion", index, subject)]
    try:
        resource = kind.model.model_validate(value)
    except ValidationError as error:
        return [_fault(kind, item, index, subject) for item in _causes(error.errors())[:MAX_FAULTS_PER_OBJECT]]
    return _settle_name(kind, resource, index)


def _settle_name(kind: Kind[Any], resource: Resource[Any], index: int) -> Resource[Any] | list[Fault]:
    """Check the name and complete the namespace."""
    namespace = resource.metadata.namespace
    if not kind.namespaced and namespace is not None:
        subject = f"{kind.name} {resource.name}"
        return [Fault(f"a {kind.name} has no namespace", "metadata.namespace", index, subject)]
    if kind.namespaced and namespace is None:
        metadata = resource.metadata.model_copy(update={"namespace": DEFAULT_NAMESPACE})
        resource = resource.model_copy(update={"metadata": metadata})
    message = kind.name_fault(resource.name)
    return resource if message is None else [Fault(message, "metadata.name", index, resource.subject)]


def _causes(items: list[Any]) -> list[Any]:
    """Leave out lists that count as too short only because one of their entries is wrong."""
    places = [item["loc"] for item in items]
    return [
        item
        for item in items
        if item["type"] != "too_short" or not any(p[: len(item["loc"])] == item["loc"] != p for p in places)
    ]


def _fault(kind: Kind[Any], item: Any, index: int, subject: str) -> Fault:
    # pydantic's own words for a validator, and for a mapping's key
    hidden = [
        part for part in item["loc"] if isinstance(part, str) and (part.startswith("function-") or part == "[key]")
    ]
    location = [part for part in item["loc"] if part not in hidden]
    name = str(location[-1]) if location else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = kind.unsupported.get(name, "unknown field")
    elif item["type"] == "missing":
        message = "missing"
    elif item["type"] == "too_short":
        message = "written but empty; give at least one entry, or leave the field out"
    return Fault(message, path(location), index, subject)


def path(location: list[int | str]) -> str:
    """``("spec", "rules", 0, "from")`` as ``spec.rules[0].from``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _subject(value: Mapping[str, Any]) -> str:
    """As good a name as can be read from an object that may be wrong."""
    metadata = value.get("metadata")
    kind = value.get("kind")
    name, namespace = "", None
    if isinstance(metadata, Mapping):
        name, namespace = str(metadata.get("name") or ""), metadata.get("namespace")
    words = f"{kind or 'object'} "[:80]
    if isinstance(kind, str) and kind in KINDS and KINDS[kind].namespaced:
        namespace = namespace or DEFAULT_NAMESPACE
    return (words + (f"{namespace}/" if namespace else "") + (name or "without a name"))[:200]


def _type(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
