"""The frame that all resources share: apiVersion, kind, metadata, and models that refuse fields they do not know."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from control.kinds.base.fields import Annotations, Labels, Name

API_VERSION = "nodemesh/v1"
DEFAULT_NAMESPACE = "default"

Key = tuple[str, str, str]
"""(kind, namespace, name); the namespace is empty for kinds that have none."""


class Model(BaseModel):
    """camelCase outside, snake_case inside; frozen; unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False, serialize_by_alias=True
    )


class Metadata(Model):
    """Who a resource is. The last four fields are the server's; ``resourceVersion`` may be sent back to mean "if
    unchanged"."""

    name: Name
    namespace: Name | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None


class LabelSelector(Model):
    """Which workloads; no labels: all of the namespace."""

    match_labels: Labels = Field(default_factory=dict)


Spec = TypeVar("Spec", bound=Model)
Status = TypeVar("Status", bound=Model)


class Resource(Model, Generic[Spec]):
    """Any resource. ``Kind`` makes the model of each kind from this one: it fixes ``kind`` and adds ``status``."""

    api_version: str = API_VERSION
    kind: str
    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """Empty for kinds that have none."""
        return self.metadata.namespace or ""

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels

    @property
    def ref(self) -> str:
        """``namespace/name``, or the name alone."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def subject(self) -> str:
        """As errors name it: ``Workload shop/web-0``."""
        return f"{self.kind} {self.ref}"

    @property
    def key(self) -> Key:
        """(kind, namespace, name)."""
        return self.kind, self.namespace, self.name

    @property
    def uid(self) -> str:
        """``<namespace>/<name>@<creation revision>``; only for what was read from the registry."""
        assert self.metadata.uid is not None, "not a stored resource"
        return self.metadata.uid

    def status_of(self, cls: type[Status]) -> Status | None:
        """The status that the server wrote, or None."""
        status = getattr(self, "status", None)
        return status if isinstance(status, cls) else None

    def document(self) -> dict[str, Any]:
        """JSON for people: in the order in which they write it, and without what is not set."""
        written: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        ordered = {"apiVersion": written.pop("apiVersion"), "kind": written.pop("kind"), **written}
        return {key: _without_empty(value) for key, value in ordered.items()}


def _without_empty(value: Any) -> Any:
    """Fields that are an empty list or object are as good as absent; entries of a list (``rules: [{}]``) never are."""
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item not in ([], {})}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value
