"""What capture shows of itself: document fields and metric samples, from the state of its members. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from control.wire.governed import CAPTURE_LABEL
from nodeagent.capture.controller import CaptureStatus
from nodeagent.policy.plaintext import effective_mode
from nodeagent.state.view import NodeState
from nodeagent.telemetry.samples import CounterSample, GaugeSample

_WORD_ENDS = re.compile(r"[ ,;]|: ?")


def plain_gauges(values: Mapping[str, float]) -> list[GaugeSample]:
    """Gauges without labels."""
    return [GaugeSample(name=name, labels={}, value=value) for name, value in values.items()]


def counter_samples(counters: Mapping[str, int]) -> list[CounterSample]:
    """The BPF programs' counters."""
    return [
        CounterSample(name="nodemesh_capture_total", labels={"reason": name}, value=value)
        for name, value in counters.items()
    ]


def workloads_document(
    state: NodeState,
    node: str,
    cgroups: Mapping[int, str],
    namespaces: Callable[[str], list[dict[str, Any]]] = lambda _: [],
    problems: Iterable[str] = (),
    directories: Mapping[int, Path] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The workloads placed on this node, the cgroups that were found for each, where those are, and the network
    namespaces that its processes are in.
    """
    by_uid: dict[str, list[int]] = {}
    told = list(problems)
    for cgroup, uid in cgroups.items():
        by_uid.setdefault(uid, []).append(cgroup)
    return [
        {
            "name": workload.name,
            "namespace": workload.namespace,
            "uid": workload.uid,
            "identity": workload.identity,
            "addresses": list(workload.addresses),
            "ports": list(workload.ports),
            "selector": workload.selectors.text,
            "cgroups": sorted(by_uid.get(workload.uid, [])),
            "directories": {
                str(number): str(directories[number])
                for number in by_uid.get(workload.uid, [])
                if number in directories
            },
            "network_namespaces": namespaces(workload.uid),
            "problems": [text for text in told if workload.uid in _WORD_ENDS.split(text)],
            "policies": list(workload.policies),
            "left": workload.labels.get(CAPTURE_LABEL) == "off",
            "egress": workload.egress_mode.value,
            "egress_policy": workload.egress_policy,
            "plaintext": {str(port): effective_mode(workload, port).value for port in workload.ports},
        }
        for workload in sorted(state.local_workloads(node), key=lambda item: item.uid)
    ]


def capture_document(status: CaptureStatus, problems: Iterable[str]) -> dict[str, Any]:
    """Hooks and who else is on them, what is in the maps, what was counted (only what is not zero)."""
    document: dict[str, Any] = {"enabled": True, **dataclasses.asdict(status)}
    document["counters"] = {name: value for name, value in status.counters.items() if value}
    document["problems"] = list(problems)
    return document
