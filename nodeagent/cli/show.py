"""How the command line shows what the agent's admin port answers: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from nodeagent.tables import cell, fields, table

FORMATS = ("table", "json", "yaml")
MAX_LIMIT_ROWS = 20


def show(document: Any, output: str, as_text: Callable[[Any], str]) -> str:
    """The document in the format that was asked for."""
    if output == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    if output == "yaml":
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip("\n")
    return as_text(document)


def workloads_text(document: Any) -> str:
    """``nodeagent workloads``."""
    headings = ("NAMESPACE", "NAME", "IDENTITY", "SELECTOR", "CGROUPS", "NETNS", "PORTS", "POLICIES")
    if not document:
        return "no workload is placed on this node; see 'meshctl get workloads'"
    rows = (
        (
            w["namespace"], w["name"], w["identity"], w["selector"], len(w["cgroups"]), _netns(w), w["ports"],
            [_name(uid) for uid in w["policies"]],
        )
        for w in document
    )  # fmt: skip
    absent = [
        f"{w['namespace']}/{w['name']}: no cgroup {cell(w['selector'])}; is it running, and the selector right?"
        for w in document
        if not w["cgroups"] and not w["problems"]
    ]
    refused = [f"{w['namespace']}/{w['name']}: {cell(text)}" for w in document for text in w["problems"]]
    unserved = [
        f"{w['namespace']}/{w['name']}: network namespace {n['inode']}: {cell(n['problem'] or 'nobody listens yet')}"
        for w in document
        for n in w["network_namespaces"]
        if n["problem"] or not n["served"]
    ]
    return "\n\n".join([table(headings, rows), *("\n".join(lines) for lines in (absent, refused, unserved) if lines)])


def _netns(workload: Mapping[str, Any]) -> list[str]:
    """As ``lsns`` shows them; the agent's own is ``node``."""
    return ["node" if found["own"] else str(found["inode"]) for found in workload["network_namespaces"]]


FLOW_HEADINGS = ("SIDE", "SOURCE", "FROM", "DESTINATION", "TO", "SERVICE", "VIA", "SENT", "RECEIVED", "AGE")
TUNNEL_HEADINGS = ("WORKER", "SIDE", "AS", "PEER", "REMOTE", "STREAMS", "STATE")
_SIDES = {"source": "out", "destination": "in", "client": "out", "server": "in"}


def flows_text(document: Any) -> str:
    """``nodeagent flows``: connections, then tunnels. The other output formats hold more of each."""
    flows, tunnels = document["flows"], document["tunnels"]
    parts = [
        table(FLOW_HEADINGS, [_flow(row) for row in flows]) if flows else "no flows",
        table(TUNNEL_HEADINGS, [_tunnel(row) for row in tunnels]) if tunnels else "no tunnels",
    ]
    if document.get("truncated"):
        parts.append("(there are more than a worker tells at once)")
    if document.get("unanswered"):
        parts.append(f"({document['unanswered']} workers did not answer in time)")
    return "\n\n".join(parts)


def _flow(row: Mapping[str, Any]) -> tuple[Any, ...]:
    side = _SIDES.get(row.get("reporter", "")) if row.get("path") in ("tunnel", "external") else "both"
    relayed = row.get("relayed_because")
    via = row.get("tunnel") or row.get("reached") or row.get("path")
    if relayed is not None:
        via = f"relay: {relayed}" if relayed else "splice"
    return (
        side, _name(row.get("source")), row.get("source_address"), _name(row.get("destination")),
        row.get("destination_address"), _name(row.get("service")),
        via if row.get("established", True) else f"{via} (connecting)",
        _size(row.get("bytes_sent")), _size(row.get("bytes_received")), _age(row.get("seconds")),
    )  # fmt: skip


def _tunnel(row: Mapping[str, Any]) -> tuple[Any, ...]:
    state = "draining" if row.get("draining") else "open" if row.get("peer") else "connecting"
    return (
        row.get("worker"), _SIDES.get(row.get("role", "")), row.get("identity"), row.get("peer"), row.get("remote"),
        row.get("streams"), state,
    )  # fmt: skip


def _name(uid: str | None) -> str | None:
    """``shop/web-0@1`` is ``shop/web-0`` to people; the number only tells a name's owners apart."""
    return uid.partition("@")[0] if uid else None


def _size(count: int | None) -> str | None:
    if count is None:
        return None
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.1f}s"


def explanation_text(document: Any) -> str:
    """``nodeagent explain``."""
    title = f"from {cell(document['source'])} to {cell(document['destination'])}"
    rows = [("yes" if step["good"] else "no", step["what"], step["why"]) for step in document["steps"]]
    return f"{title}\n\n{table(('', 'STEP', 'WHY'), rows)}\n\n{document['verdict']}"


def status_text(status: Any) -> str:
    """``nodeagent status``."""
    sections = [_overview(status), _workers(status["workers"]), _identities(status["certificates"])]
    sections += [_capture(status["capture"]), _egress(status.get("egress", {}))]
    sections += [_limits(status.get("limits", ())), _errors(status.get("errors", ()))]
    return "\n\n".join(section for section in sections if section)


def _overview(status: Mapping[str, Any]) -> str:
    control = status["control"]
    connection = "connected" if control["connected"] else f"not connected: {cell(control['last_error'])}"
    node = status["certificates"]["node"]
    membership = (
        f"member of {node.get('trust_domain')}, until {node.get('expires')}" if node["joined"] else "not joined"
    )
    return fields([
        ("node", f"{status['node']} ({membership})"),
        ("ready", "yes" if status["ready"] else "no"),
        ("control", f"{control['url'] or '(none)'} {connection}; state of revision {control['revision']}"),
        ("splice", _splice(status["splice"])),
        *(("blocked", f"{name}: {cell(why)}") for name, why in status["blockers"].items()),
        *(("warning", f"{name}: {cell(what)}") for name, what in status["warnings"].items()),
    ])  # fmt: skip


def _splice(splice: Mapping[str, Any]) -> str:
    if not splice["on"]:
        return f"off, same-node flows are relayed in userspace: {cell(splice['why_not'])}{_kept_out(splice)}"
    test = splice["self_test"]
    absent = [name for name, result in test["items"].items() if result != "pass"]
    noted = f"; not as expected: {', '.join(absent)}" if absent else ""
    tested = f"self-test of {len(test['items'])} items in {test['seconds']} s{noted}"
    legs = f"; legs to other nodes take TCP: {cell(splice['legs_why_not'])}" if splice["legs_why_not"] else ""
    return f"on, {splice['flows']} flows known; {tested}{legs}{_kept_out(splice)}"


def _kept_out(splice: Mapping[str, Any]) -> str:
    """Whom it does not carry, one line each."""
    kept = splice["kept_out"]
    lines = [f"{kind} {_name(uid)}: switched off by its label" for kind in ("workload", "service")
             for uid in kept[f"{kind}s"]]  # fmt: skip
    lines += [
        f"workload {_name(uid)}: a flow of it got stuck ({why}); 'nodeagent splice clear' gives it another try"
        for uid, why in kept["stuck"].items()
    ]
    if kept["more"]:
        lines.append(f"and {kept['more']} more")
    return "".join(f"\n  relayed: {cell(line)}" for line in lines)


def _workers(workers: Mapping[str, Any]) -> str:
    title = f"workers: {workers['serving']} of {workers['wanted']} serve, {workers['restarts']} restarts"
    rows = ((w["index"], w["pid"], "yes" if w["serving"] else "no", w["revision"]) for w in workers["list"])
    return title + "\n" + table(("WORKER", "PID", "SERVES", "REVISION"), rows)


def _identities(certificates: Mapping[str, Any]) -> str:
    identities = certificates["identities"]
    if not identities:
        return "identities: none; no workload is placed on this node"
    rows = ((i["identity"], i["state"], i["expires"], i["last_error"]) for i in identities)
    return table(("IDENTITY", "STATE", "EXPIRES", "LAST ERROR"), rows)


def _capture(capture: Mapping[str, Any]) -> str:
    if not capture.get("enabled"):
        return f"capture: off; {cell(capture.get('why'))}"
    lines = [
        f"capture: {len(capture['programs'])} programs on {capture['cgroup_root']}, pinned in {capture['pin_dir']}; "
        f"{capture['enrolled']} cgroups, {capture['destinations']} destinations"
    ]
    lines += [f"  problem: {cell(problem)}" for problem in capture["problems"]]
    if namespaces := capture.get("namespaces"):
        lines.append(
            f"  network namespaces besides the node's: {namespaces['held']}, of which {namespaces['served']} are served"
        )
        lines += [f"  problem: {cell(problem)}" for problem in namespaces["problems"]]
    lines += [
        f"  also on {other['hook']} of {other['cgroup']}: program {other['program_id']} {cell(other['name'])}"
        for other in capture["cohabitants"]
    ]
    lines += [f"  {name}: {value}" for name, value in capture["counters"].items()]
    return "\n".join(lines)


def _egress(egress: Mapping[str, Any]) -> str:
    """Empty where no workload is confined and nothing was refused."""
    confined, refused = egress.get("confined", ()), egress.get("refused", ())
    lines = [f"egress: REGISTRY_ONLY for {', '.join(str(_name(uid)) for uid in confined)}"] if confined else []
    if refused:
        rows = (
            (_name(r["workload"]), r["protocol"], r["destination"], r["count"], r["pid"] or None, _age(r["seconds"]))
            for r in refused
        )
        lines += ["refused lately:", table(("WORKLOAD", "PROTOCOL", "TO", "TIMES", "PID", "AGO"), rows)]
    return "\n".join(lines)


def _limits(limits: Sequence[Mapping[str, Any]]) -> str:
    """Empty where nobody used up a share."""
    if not limits:
        return ""
    title = "refused because a share was used up (settings limits.*):"
    rows = ((row["count"], row["limit"], cell(row["owner"])) for row in limits[:MAX_LIMIT_ROWS])
    more = f"\nand {len(limits) - MAX_LIMIT_ROWS} more" if len(limits) > MAX_LIMIT_ROWS else ""
    return title + "\n" + table(("COUNT", "LIMIT", "WHO"), rows) + more


def _errors(errors: Sequence[Mapping[str, Any]]) -> str:
    if not errors:
        return "errors: none since the agent started"
    title = "errors since the agent started (each is a line of the access log, with its details):"
    rows = ((e["count"], e["reason"], e["fault"], e["hint"]) for e in errors)
    return title + "\n" + table(("COUNT", "REASON", "FAULT", "HINT"), rows)
