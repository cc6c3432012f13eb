"""Names that mean somebody: SPIFFE IDs and trust domains.

Source: the SPIFFE-ID standard (github.com/spiffe/spiffe, standards/SPIFFE-ID.md). Workloads are
``spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>``; the mesh's own parts use other paths, so that the
certificate of a node, an operator or control can never pass for a workload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

MAX_ID_BYTES = 2048
MAX_REMEMBERED = 4096
"""IDs whose reading is remembered: each connection names two of a few."""
MAX_TRUST_DOMAIN_BYTES = 255
DEFAULT_TRUST_DOMAIN = "mesh.internal"
DEFAULT_DOMAIN = "mesh.internal"
"""DNS suffix of services, unless control is told another."""
MAX_DOMAIN_CHARACTERS = 120
"""So that ``<service>.<namespace>.<domain>`` with two labels of 63 is a DNS name still (253 characters)."""
ROOT_NAMESPACE = "nodemesh-system"
"""Policies of this namespace without a selector hold for the whole mesh (as in Istio's root namespace)."""

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+\Z")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+\Z")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


class SpiffeIdError(ValueError):
    """The text is not a SPIFFE ID; the message names the rule that it breaks."""


def is_dns_label(text: str) -> bool:
    """Whether the text can be the name of a resource (RFC 1123 label, at most 63 characters)."""
    return _DNS_LABEL.match(text) is not None


def check_trust_domain(text: str) -> str:
    """The trust domain itself, or SpiffeIdError saying what is wrong with it."""
    if not text:
        raise SpiffeIdError("the trust domain is empty")
    if len(text) > MAX_TRUST_DOMAIN_BYTES:
        raise SpiffeIdError(f"the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")
    if not _TRUST_DOMAIN.match(text):
        raise SpiffeIdError(f"trust domain {text!r}: only lower-case letters, digits, '.', '-' and '_' may stand in it")
    return text


def check_domain(text: str) -> str:
    """A DNS suffix in lower case and without a dot at its end, or ValueError saying what is wrong with it."""
    if not 0 < len(text) <= MAX_DOMAIN_CHARACTERS or not all(is_dns_label(label) for label in text.split(".")):
        raise ValueError(
            f"{text[:MAX_DOMAIN_CHARACTERS]!r} is not a DNS suffix: lower-case labels with dots between them, such as"
            f" mesh.internal, at most {MAX_DOMAIN_CHARACTERS} characters"
        )
    return text


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A parsed SPIFFE ID. ``str()`` gives the URI back, byte for byte."""

    trust_domain: str
    segments: tuple[str, ...]

    @classmethod
    @lru_cache(MAX_REMEMBERED)
    def parse(cls, text: str) -> Self:
        """Read a SPIFFE ID with a non-root path; raise SpiffeIdError naming the broken rule."""
        if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
            raise SpiffeIdError(f"a SPIFFE ID may not be longer than {MAX_ID_BYTES} bytes")
        if not text.startswith("spiffe://"):
            raise SpiffeIdError(f"{text!r} does not start with spiffe://")
        domain, slash, path = text[len("spiffe://") :].partition("/")
        check_trust_domain(domain)
        if not slash or not path:
            raise SpiffeIdError(f"{text!r} has no path: it names a trust domain, not a workload")
        segments = tuple(path.split("/"))
        for segment in segments:
            if not _SEGMENT.match(segment) or segment in (".", ".."):
                raise SpiffeIdError(f"{text!r}: path segment {segment!r} is not allowed")
        return cls(domain, segments)

    @classmethod
    def workload(cls, trust_domain: str, namespace: str, service_account: str) -> Self:
        """The identity of a workload; it is checked like any other text."""
        return cls.parse(f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{'/'.join(self.segments)}"

    @property
    def is_workload(self) -> bool:
        """Whether this is ``/ns/<namespace>/sa/<service-account>``."""
        return len(self.segments) == 4 and self.segments[0] == "ns" and self.segments[2] == "sa"

    @property
    def namespace(self) -> str:
        """The namespace of a workload identity; empty for any other."""
        return self.segments[1] if self.is_workload else ""

    @property
    def service_account(self) -> str:
        """The service account of a workload identity; empty for any other."""
        return self.segments[3] if self.is_workload else ""


def node_id(trust_domain: str, node: str) -> SpiffeId:
    """The identity of a node's agent towards control."""
    return SpiffeId.parse(f"spiffe://{trust_domain}/node/{node}")


def operator_id(trust_domain: str, name: str) -> SpiffeId:
    """The identity of an operator towards control."""
    return SpiffeId.parse(f"spiffe://{trust_domain}/operator/{name}")


def control_id(trust_domain: str) -> SpiffeId:
    """The identity of the control service."""
    return SpiffeId.parse(f"spiffe://{trust_domain}/control")
