"""The frame that all resources share: apiVersion, kind, metadata, and models that refuse fields they do not know."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from control.wire.address import canonical_ip
from control.wire.ids import is_dns_label

API_VERSION = "nodemesh/v1"
ISTIO_API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
DEFAULT_NAMESPACE = "default"
MAX_LABELS = 64
MAX_ANNOTATIONS = 64
MAX_ANNOTATION_CHARACTERS = 4096
MAX_LIST = 1024
"""Entries of any one list in a spec."""

_LABEL_NAME = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?)\Z")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][A-Za-z0-9._-]{0,61})?[A-Za-z0-9])?\Z")


def check_name(text: str) -> str:
    """A resource name, or ValueError with the rule."""
    if not is_dns_label(text):
        raise ValueError(
            f"{text[:80]!r} is not a name: lower-case letters, digits and '-' inside, at most 63 characters"
        )
    return text


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Label keys and values as Kubernetes has them, or ValueError."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels; at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.match(name) or (slash and not _LABEL_PREFIX.match(prefix)):
            raise ValueError(f"{key[:80]!r} is not a label key ([prefix/]name, the name at most 63 characters)")
        if not _LABEL_VALUE.match(value):
            raise ValueError(f"{key}: {value[:80]!r} is not a label value (letters, digits, '.', '_', '-'; at most 63)")
    return labels


def check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    """Annotations are free text of bounded size."""
    if len(annotations) > MAX_ANNOTATIONS:
        raise ValueError(f"{len(annotations)} annotations; at most {MAX_ANNOTATIONS} are allowed")
    if sum(len(k) + len(v) for k, v in annotations.items()) > MAX_ANNOTATION_CHARACTERS:
        raise ValueError(f"annotations are longer than {MAX_ANNOTATION_CHARACTERS} characters in all")
    return annotations


def check_ip(text: str) -> str:
    """An IP address in canonical spelling (a v4-mapped one is made IPv4)."""
    return canonical_ip(text)


Name = Annotated[str, AfterValidator(check_name)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels)]
Annotations = Annotated[dict[str, str], AfterValidator(check_annotations)]
IpAddress = Annotated[str, AfterValidator(check_ip)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


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


class Resource(Model):
    """Any resource. ``kind`` is fixed by each subclass."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    NAMESPACED: ClassVar[bool] = True
    API_VERSIONS: ClassVar[tuple[str, ...]] = (API_VERSION,)

    api_version: str = API_VERSION
    metadata: Metadata

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
        return f"{self.namespace}/{self.name}" if self.NAMESPACED else self.name

    @property
    def subject(self) -> str:
        """As errors name it: ``Workload shop/web-0``."""
        return f"{self.KIND} {self.ref}"

    @property
    def key(self) -> tuple[str, str, str]:
        """(kind, namespace, name)."""
        return self.KIND, self.namespace, self.name

    @property
    def uid(self) -> str:
        """``<namespace>/<name>@<creation revision>``; only for what was read from the registry."""
        assert self.metadata.uid is not None, "not a stored resource"
        return self.metadata.uid

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
