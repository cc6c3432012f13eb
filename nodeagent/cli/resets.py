"""What ``nodeagent reset`` does, over what the running agent answers: in the process of whoever is allowed
to, not in the agent, whose admin port is open to everybody on the node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from control.wire.discovery import Workload
from nodeagent.capture.cgroups import cgroup_id
from nodeagent.capture.plan import destinations_of
from nodeagent.capture.reset import Outcome, ResetContext, UnseenAgentError, reset
from nodeagent.capture.standing import ALL, CARRIED, PAST, Way
from nodeagent.config import Config
from nodeagent.doctor.command import state_of
from nodeagent.manager.old_connections import has_left, subject_of
from nodeagent.state.view import NodeState
from nodeagent.tables import table

Ask = Callable[[str], Any]
RESET_HEADINGS = ("RESULT", "LOCAL", "REMOTE", "PROCESS", "WAY")


class CannotResetError(Exception):
    """Nothing was reset; the text says why and what to do."""


def ways(carried: bool, everything: bool) -> frozenset[Way]:
    """What the options choose."""
    return ALL if everything else CARRIED if carried else PAST


def reset_verb(
    config: Config, name: str, chosen: Collection[Way], ask: Ask, *, dry_run: bool = False
) -> dict[str, Any]:
    """What was reset, or would be. CannotResetError if nothing was."""
    try:
        state, rows = state_of(ask("state")), ask("workloads")
        workload = _find(state, config.node, name)
        found = {row["uid"]: row for row in rows}
        directories = {int(number): Path(path) for number, path in found[workload.uid]["directories"].items()}
        enrolled = {int(number): row["uid"] for row in rows for number in row["cgroups"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CannotResetError(
            f"the agent that answers is of another version than this command; restart it ({error!r})"
        ) from error
    if has_left(workload):
        chosen = frozenset(chosen) - PAST  # where a workload that has left belongs
    _check(workload, directories)
    around = ResetContext(
        enrolled=enrolled,
        destinations=destinations_of(state.services(), state.workloads()).entries,
        capture_port=config.ports.outbound,
        agent=lambda: _processes(ask("status")),
    )
    try:
        outcome = reset(subject_of(workload, directories), around, chosen, dry_run=dry_run)
    except UnseenAgentError as error:
        raise CannotResetError(str(error)) from error
    except PermissionError as error:
        raise CannotResetError(f"{error}; are you root?") from error
    return _document(workload.uid, outcome, dry_run)


def reset_text(told: Mapping[str, Any]) -> str:
    """For people: a table of the connections, then the sum."""
    found = told["connections"]
    rows = ((row["what"], row["local"], row["remote"], row["pid"] or None, row["way"]) for row in found)
    done = sum(row["what"] == "reset" for row in found)
    lines = [f"{told['workload']}: {len(found)} such connections, {done} reset"]
    if told["trouble"]:
        lines.append(f"the others are still open: {told['trouble']}")
    return "\n\n".join([*([table(RESET_HEADINGS, rows)] if found else []), "\n".join(lines)])


def _find(state: NodeState, node: str, text: str) -> Workload:
    namespace, slash, name = text.rpartition("/")
    local = state.local_workloads(node)
    found = [w for w in local if w.name == name and (not slash or w.namespace == namespace)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CannotResetError(f"no workload of this node is called {text!r}; 'nodeagent workloads' lists them")
    names = ", ".join(w.uid for w in found)
    raise CannotResetError(f"{text!r} could be {names}; write namespace/name")


def _check(workload: Workload, directories: Mapping[int, Path]) -> None:
    if not directories:
        raise CannotResetError(f"no cgroup of {workload.uid} is there: none of its processes runs")
    for number, path in directories.items():
        if cgroup_id(path) is None or (number >> 63 == 0 and cgroup_id(path) != number):
            raise CannotResetError(
                f"{path} is not the cgroup that the agent found for {workload.uid}: it has ended, or this command sees"
                " another cgroup tree than the agent; run it where the agent runs"
            )


def _processes(status: Mapping[str, Any]) -> list[int]:
    """The agent's. One that is starting has no number yet, and no connection either."""
    return [status["pid"], *(worker["pid"] for worker in status["workers"]["list"] if worker["pid"])]


def _document(uid: str, outcome: Outcome, dry_run: bool) -> dict[str, Any]:
    left = "would reset" if dry_run else "stands"
    return {
        "workload": uid,
        "dry_run": dry_run,
        "connections": [
            {
                "local": str(told.connection.local),
                "remote": str(told.connection.remote),
                "way": told.connection.way.value,
                "pid": told.pid,
                "what": "reset" if told.ended else left,
            }
            for told in outcome.connections
        ],
        "trouble": outcome.trouble,
    }
