"""How the command line shows what the agent's admin port answers: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

FORMATS = ("table", "json", "yaml")
MAX_CELL_CHARACTERS = 200


def show(document: Any, output: str, as_text: Callable[[Any], str]) -> str:
    """The document in the format that was asked for."""
    if output == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    if output == "yaml":
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip("\n")
    return as_text(document)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as they need to be; what is not known is ``-``."""
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    text = "-" if value is None or value == "" else str(value)
    # names come over the network: nothing of them may move the cursor or fake a line
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= MAX_CELL_CHARACTERS else text[: MAX_CELL_CHARACTERS - 1] + "…"


def workloads_text(document: Any) -> str:
    """``nodeagent workloads``."""
    headings = ("NAMESPACE", "NAME", "IDENTITY", "SELECTOR", "CGROUPS", "PORTS", "POLICIES")
    if not document:
        return "no workload is placed on this node; see 'meshctl get workloads'"
    return table(
        headings,
        (
            (w["namespace"], w["name"], w["identity"], w["selector"], len(w["cgroups"]), w["ports"], len(w["policies"]))
            for w in document
        ),
    )


def flows_text(document: Any) -> str:
    """``nodeagent flows``: connections, then tunnels, with the keys that the workers give."""
    parts = []
    for title in ("flows", "tunnels"):
        rows = document[title]
        if not rows:
            parts.append(f"no {title}")
            continue
        keys = list(dict.fromkeys(key for row in rows for key in row))
        parts.append(table([key.upper() for key in keys], ([row.get(key) for key in keys] for row in rows)))
    if document.get("truncated"):
        parts.append("(there are more than a worker tells at once)")
    if document.get("unanswered"):
        parts.append(f"({document['unanswered']} workers did not answer in time)")
    return "\n\n".join(parts)


def status_text(status: Any) -> str:
    """``nodeagent status``."""
    sections = [_overview(status), _workers(status["workers"]), _identities(status["certificates"])]
    sections.append(_capture(status["capture"]))
    return "\n\n".join(section for section in sections if section)


def _overview(status: Mapping[str, Any]) -> str:
    control = status["control"]
    connection = "connected" if control["connected"] else f"not connected: {_cell(control['last_error'])}"
    node = status["certificates"]["node"]
    membership = (
        f"member of {node.get('trust_domain')}, until {node.get('expires')}" if node["joined"] else "not joined"
    )
    lines = [
        f"node:     {status['node']} ({membership})",
        f"ready:    {'yes' if status['ready'] else 'no'}",
        f"control:  {control['url'] or '(none)'} {connection}; state of revision {control['revision']}",
        f"splice:   {status['splice']}",
    ]
    lines += [f"blocked:  {name}: {_cell(why)}" for name, why in status["blockers"].items()]
    lines += [f"warning:  {name}: {_cell(what)}" for name, what in status["warnings"].items()]
    return "\n".join(lines)


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
        return f"capture: off; {_cell(capture.get('why'))}"
    lines = [
        f"capture: {len(capture['programs'])} programs on {capture['cgroup_root']}, pinned in {capture['pin_dir']}; "
        f"{capture['enrolled']} cgroups, {capture['destinations']} destinations"
    ]
    lines += [f"  problem: {_cell(problem)}" for problem in capture["problems"]]
    lines += [
        f"  also on {other['hook']} of {other['cgroup']}: program {other['program_id']} {_cell(other['name'])}"
        for other in capture["cohabitants"]
    ]
    lines += [f"  {name}: {value}" for name, value in capture["counters"].items()]
    return "\n".join(lines)
