"""From a JSON value to a resource, with every mistake named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from control.registry.entries import ServiceEntry
from control.registry.errors import Fault
from control.registry.meshconfig import MESH_CONFIG_NAME, MeshConfig
from control.registry.model import DEFAULT_NAMESPACE, Resource
from control.registry.policies import LAYER_7_FIELDS, AuthorizationPolicy, EgressPolicy, PeerAuthentication
from control.registry.services import Service
from control.registry.workloads import RESERVED_NODE_NAMES, Node, Workload

KINDS: dict[str, type[Resource]] = {
    kind.KIND: kind
    for kind in (
        MeshConfig,
        Node,
        Workload,
        Service,
        ServiceEntry,
        AuthorizationPolicy,
        PeerAuthentication,
        EgressPolicy,
    )
}
"""In the order in which they are best written: what others refer to comes first."""
MAX_FAULTS_PER_OBJECT = 20

_NOT_YET = {
    "targetRefs": "targetRefs is not supported; select workloads with selector",
    "targetRef": "targetRef is not supported; select workloads with selector",
    "workloadSelector": "workloads of the mesh are selected by a Service; a ServiceEntry is of what is outside of it",
    "subjectAltNames": "bytes are passed on as they are: the program itself verifies the server's certificate",
    "exportTo": "a ServiceEntry is known to the whole mesh; an EgressPolicy says who may leave it",
    "provider": "provider belongs to CUSTOM policies, which are not supported",
}


def parse(value: Any, index: int = 0) -> Resource | list[Fault]:
    """The resource, or what is wrong with it. ``index`` is copied into the faults."""
    if not isinstance(value, Mapping):
        wanted = "expected an object with apiVersion, kind, metadata and spec"
        return [Fault(f"{wanted}, found {_type(value)}", index=index)]
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        found = "it is missing" if kind is None else f"found {str(kind)[:80]!r}"
        return [Fault(f"{found}; known kinds: {', '.join(KINDS)}", "kind", index, _subject(value))]
    cls = KINDS[kind]
    subject = _subject(value)
    version = value.get("apiVersion")
    if version not in cls.API_VERSIONS:
        found = "it is missing" if version is None else f"found {str(version)[:80]!r}"
        return [Fault(f"{found}; write {' or '.join(cls.API_VERSIONS)}", "apiVersion", index, subject)]
    try:
        resource = cls.model_validate(value)
    except ValidationError as error:
        return [_fault(cls, item, index, subject) for item in _told(error.errors())[:MAX_FAULTS_PER_OBJECT]]
    return _placed(resource, index)


def _placed(resource: Resource, index: int) -> Resource | list[Fault]:
    """With its namespace settled."""
    namespace = resource.metadata.namespace
    if not resource.NAMESPACED:
        if namespace is not None:
            return [Fault(f"a {resource.KIND} has no namespace", "metadata.namespace", index, resource.subject)]
        if resource.KIND == "Node" and resource.name in RESERVED_NODE_NAMES:
            return [Fault(f"{resource.name!r} is reserved", "metadata.name", index, resource.subject)]
        if resource.KIND == MeshConfig.KIND and resource.name != MESH_CONFIG_NAME:
            why = f"there is one MeshConfig; name it {MESH_CONFIG_NAME!r}"
            return [Fault(why, "metadata.name", index, resource.subject)]
        return resource
    if namespace is None:
        metadata = resource.metadata.model_copy(update={"namespace": DEFAULT_NAMESPACE})
        return resource.model_copy(update={"metadata": metadata})
    return resource


def _told(items: list[Any]) -> list[Any]:
    """Without the lists that only count as too short because an entry of theirs is wrong."""
    places = [item["loc"] for item in items]
    return [
        item
        for item in items
        if item["type"] != "too_short" or not any(p[: len(item["loc"])] == item["loc"] != p for p in places)
    ]


def _fault(cls: type[Resource], item: Any, index: int, subject: str) -> Fault:
    # pydantic's own words for a validator, and for a mapping's key
    hidden = [
        part for part in item["loc"] if isinstance(part, str) and (part.startswith("function-") or part == "[key]")
    ]
    location = [part for part in item["loc"] if part not in hidden]
    name = str(location[-1]) if location else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = _unknown(cls, name)
    elif item["type"] == "missing":
        message = "missing"
    elif item["type"] == "too_short":
        message = "written but empty; give at least one entry, or leave the field out"
    return Fault(message, path(location), index, subject)


def _unknown(cls: type[Resource], name: str) -> str:
    if cls is AuthorizationPolicy and name in LAYER_7_FIELDS:
        return (
            f"{name} looks into requests (layer 7); policies are enforced on connections, L4 only: principals, "
            "namespaces, ipBlocks, ports and their not-forms"
        )
    return _NOT_YET.get(name, "unknown field")


def path(location: list[int | str]) -> str:
    """``("spec", "rules", 0, "from")`` as ``spec.rules[0].from``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _subject(value: Mapping[str, Any]) -> str:
    """As good a name as can be read from what may be wrong."""
    metadata = value.get("metadata")
    kind = value.get("kind")
    name, namespace = "", None
    if isinstance(metadata, Mapping):
        name, namespace = str(metadata.get("name") or ""), metadata.get("namespace")
    words = f"{kind or 'object'} "[:80]
    if isinstance(kind, str) and kind in KINDS and KINDS[kind].NAMESPACED:
        namespace = namespace or DEFAULT_NAMESPACE
    return (words + (f"{namespace}/" if namespace else "") + (name or "without a name"))[:200]


def _type(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
