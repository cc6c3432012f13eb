"""What the running agent says of itself and of each workload of its node. Pure, over its documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nodeagent.doctor.finding import Finding, Level

Processes = Callable[[int], int | None]
"""Cgroup id -> processes in it and below; None if there is no such cgroup any more."""


def agent(status: Mapping[str, Any] | None) -> list[Finding]:
    """The agent as a whole; None: no agent answers."""
    if status is None:
        return [Finding("agent", Level.BAD, "no agent answers on this node",
                        "start it: 'systemctl start nodeagent' or 'nodeagent run'")]  # fmt: skip
    found = [Finding("agent", Level.BAD, f"not ready, {name}: {why}", "see 'nodeagent status'")
             for name, why in status["blockers"].items()]  # fmt: skip
    found += [Finding("agent", Level.ODD, f"{name}: {what}") for name, what in status["warnings"].items()]
    if not found:
        found = [Finding("agent", Level.GOOD, f"{status['node']} is ready, state of revision"
                         f" {status['control']['revision']}")]  # fmt: skip
    return [*found, *certificates(status["certificates"]), splice(status["splice"])]


def certificates(document: Mapping[str, Any]) -> list[Finding]:
    """The node's certificate and its workloads' SVIDs."""
    node = document["node"]
    if not node["joined"]:
        return [Finding("certificates", Level.BAD, f"the node has not joined: {node['last_error'] or 'no token yet'}",
                        "make a token ('meshctl token create --node NAME') and give it as NODEMESH_TOKEN")]  # fmt: skip
    bad = [item for item in document["identities"] if not item["usable"]]
    failing = [item for item in document["identities"] if item["usable"] and item["failures"]]
    found = [Finding("certificates", Level.BAD, f"{item['identity']}: {item['last_error'] or 'no SVID yet'}",
                     "its connections are refused until control signs; see 'nodeagent status'")
             for item in bad]  # fmt: skip
    found += [Finding("certificates", Level.ODD,
                      f"{item['identity']}: valid until {item['expires']}, renewal fails: {item['last_error']}")
              for item in failing]  # fmt: skip
    text = f"the node's is valid until {node.get('expires')}; {len(document['identities']) - len(bad)} SVIDs are usable"
    return [*found, Finding("certificates", Level.GOOD, text)]


def splice(document: Mapping[str, Any]) -> Finding:
    """Whether the kernel carries same-node flows."""
    if document["on"]:
        return Finding("splice", Level.GOOD, "on: same-node flows are carried by the kernel where programs allow it")
    return Finding("splice", Level.ODD, f"off, same-node flows are relayed: {document['why_not']}")


def each(workloads: Sequence[Mapping[str, Any]], capture: Mapping[str, Any], processes: Processes) -> list[Finding]:
    """For every workload of the node: would its traffic be captured, and why (not)?"""
    if not workloads:
        return [Finding("workloads", Level.ODD, "no workload is placed on this node",
                        "'meshctl get workloads' shows where they are; spec.node must name this node")]  # fmt: skip
    return [one(workload, capture, processes) for workload in workloads]


def egress(document: Mapping[str, Any]) -> list[Finding]:
    """Workloads that wanted out of the mesh lately and may not; nothing where nobody did."""
    by_workload: dict[str, list[Mapping[str, Any]]] = {}
    for item in document["refused"]:
        by_workload.setdefault(item["workload"].partition("@")[0] or "of nobody", []).append(item)
    return [
        Finding(f"egress {name}", Level.ODD,
                f"kept from {len(items)} destinations outside the mesh, the last {items[0]['protocol']}"
                f" {items[0]['destination']} {items[0]['seconds']:.0f} s ago (REGISTRY_ONLY)",
                "if it is to get there, register the destination (ServiceEntry), or set mode ALLOW_ANY for it")
        for name, items in by_workload.items()
    ]  # fmt: skip


def one(workload: Mapping[str, Any], capture: Mapping[str, Any], processes: Processes) -> Finding:
    """One workload."""
    name = f"workload {workload['namespace']}/{workload['name']}"
    if not capture.get("enabled"):
        return Finding(name, Level.BAD, "not captured: capture is off in the configuration", "set capture: true")
    if workload.get("left"):
        return Finding(name, Level.ODD, "not captured: it has left the mesh by its label nodemesh.io/capture=off",
                       "take the label away: new connections go through the mesh then")  # fmt: skip
    trouble = [problem for problem in capture["problems"] if workload["uid"] in problem]
    if trouble:
        return Finding(name, Level.BAD, f"not captured: {trouble[0]}", "mend its selectors: 'meshctl edit' or apply")
    if not workload["cgroups"]:
        return Finding(name, Level.BAD, f"not captured: there is no cgroup for {workload['selector']}",
                       "is it running? 'systemd-cgls' shows the names")  # fmt: skip
    if not capture["listeners"]:
        return Finding(name, Level.BAD, "its connections to the mesh are refused: no worker listens", "see the log")
    waiting = {number: state for number, state in workload.get("stages", {}).items() if state["why"]}
    if waiting:
        number, state = next(iter(waiting.items()))
        return Finding(name, Level.BAD,
                       f"{len(waiting)} of its {len(workload['cgroups'])} cgroups are not captured, their connections"
                       f" to the mesh are refused: cgroup {number} is {state['stage']}: {state['why']}",
                       "see 'nodeagent status' and the log; it is tried again all the time")  # fmt: skip
    counts = [processes(cgroup) for cgroup in workload["cgroups"]]
    running = sum(count for count in counts if count)
    where = f"{len(workload['cgroups'])} cgroups of {workload['selector']}"
    if not running:
        return Finding(name, Level.ODD, f"would be captured ({where}), but no process is in there",
                       "processes elsewhere are not captured: 'cat /proc/PID/cgroup' tells where one is")  # fmt: skip
    confined = "" if workload["egress"] == "ALLOW_ANY" else f"; egress {workload['egress']}"
    return Finding(name, Level.GOOD, f"captured: {running} processes in {where}{confined}")
