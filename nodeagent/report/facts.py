"""What the manager itself knows, as metric samples and as the documents of ``/debug`` and ``nodeagent status``. No
keys in either."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from control.codec.values import encode
from nodeagent.config import Config
from nodeagent.identity.rotation import IdentityStatus
from nodeagent.limits.excess import METRIC, Excess
from nodeagent.manager.hub import Hub
from nodeagent.manager.membership import Membership
from nodeagent.manager.svids import SvidKeeper
from nodeagent.reasons import Reason
from nodeagent.state.view import NodeState
from nodeagent.telemetry.metrics import ERRORS
from nodeagent.telemetry.samples import CounterSample, GaugeSample, NumberSample, Sample

SECRET_SETTINGS = ("token",)


def svid_samples(keeper: SvidKeeper) -> list[NumberSample]:
    """Expiry, renewals and failures of each identity."""
    samples: list[NumberSample] = []
    for status in keeper.statuses():
        labels = {"identity": status.identity}
        if status.expires is not None:
            expiry = GaugeSample(name="nodemesh_svid_expiry_timestamp_seconds", labels=labels, value=status.expires)
            samples.append(expiry)
        renewals, failures = keeper.renewals.get(status.identity, 0), keeper.failures.get(status.identity, 0)
        samples.append(CounterSample(name="nodemesh_svid_renewals_total", labels=labels, value=renewals))
        samples.append(CounterSample(name="nodemesh_svid_failures_total", labels=labels, value=failures))
    return samples


def membership_samples(membership: Membership) -> list[GaugeSample]:
    """When the node's own certificate expires."""
    if membership.credential is None:
        return []
    expires = membership.credential.validity()[1].timestamp()
    return [GaugeSample(name="nodemesh_node_certificate_expiry_timestamp_seconds", labels={}, value=expires)]


def excess_samples(excess: Excess) -> list[CounterSample]:
    """Who exceeded a limit of the manager."""
    return [
        CounterSample(name=METRIC, labels={"limit": limit, "owner": owner}, value=count)
        for (limit, owner), count in excess.counts.items()
    ]


def limits_document(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Who was refused because a share was used up, most often refused first."""
    found = [sample for sample in samples if isinstance(sample, CounterSample) and sample.name == METRIC]
    return [
        {"limit": sample.labels["limit"], "owner": sample.labels["owner"], "count": int(sample.value)}
        for sample in sorted(found, key=lambda item: (-item.value, item.labels["limit"], item.labels["owner"]))
    ]


def errors_document(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """What went wrong with connections since the agent started, most frequent first, and what to do about it."""
    hints = {reason.code: reason.value.hint for reason in Reason}
    found = [sample for sample in samples if isinstance(sample, CounterSample) and sample.name == ERRORS]
    return [
        {
            "reason": sample.labels["reason"],
            "fault": sample.labels["fault"],
            "count": int(sample.value),
            "hint": hints.get(sample.labels["reason"], ""),
        }
        for sample in sorted(found, key=lambda item: (-item.value, item.labels["reason"]))
    ]


def config_document(config: Config) -> dict[str, Any]:
    """The settings in force; secrets only as set or not."""
    document = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    for name in SECRET_SETTINGS:
        document[name] = "(set)" if document[name] else ""
    return document


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def state_document(state: NodeState, rejected: Iterable[str]) -> dict[str, Any]:
    """The whole read model."""
    return {
        "instance": state.instance,
        "revision": state.revision,
        "loaded": state.ready,
        "rejected": list(rejected),
        "workloads": [encode(item) for item in state.workloads()],
        "services": [encode(item) for item in state.services()],
        "policies": [encode(item) for item in state.policies()],
        "settings": [] if state.settings is None else [encode(state.settings)],
    }


def workers_document(hub: Hub, wanted: int, restarts: int) -> dict[str, Any]:
    """Which workers there are and by which revision each decides."""
    return {
        "wanted": wanted,
        "serving": hub.serving,
        "restarts": restarts,
        "list": [
            {
                "index": link.index,
                "pid": link.pid,
                "serving": link.ready,
                "revision": link.revision,
                "rejected": list(link.rejected),
            }
            for link in hub.links
        ],
    }


def identity_document(status: IdentityStatus) -> dict[str, Any]:
    """One identity, for operators."""
    return {
        "identity": status.identity,
        "state": status.state.value,
        "usable": status.usable,
        "expires": _time(status.expires),
        "failures": status.failures,
        "last_error": status.last_error,
        "next_attempt": _time(status.next_attempt),
    }


def certificates_document(membership: Membership | None, keeper: SvidKeeper | None) -> dict[str, Any]:
    """The node's certificate and every SVID: whose, until when, what went wrong."""
    node: dict[str, Any] = {"joined": False, "last_error": "no control is configured"}
    if membership is not None:
        node = {"joined": membership.credential is not None, "last_error": membership.error}
        if membership.credential is not None:
            node["trust_domain"] = membership.credential.trust_domain
            node["expires"] = membership.credential.validity()[1].isoformat()
            node["roots"] = len(membership.credential.roots)
    return {
        "node": node,
        "identities": [identity_document(status) for status in keeper.statuses()] if keeper is not None else [],
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
