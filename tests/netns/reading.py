"""What an agent tells about itself, read from outside: readiness, metrics, access log, /proc."""

from __future__ import annotations

import http.client
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.netns.spot import Spot

ADMIN_PORT = 15000
METRICS_PORT = 15020


class ReadingError(Exception):
    """An endpoint answered, but not with what was asked for."""


@dataclass(frozen=True)
class Sample:
    """One series at one time."""

    name: str
    labels: dict[str, str]
    value: float


def get(spot: Spot, port: int, path: str, *, address: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of a GET on the node, not through the mesh."""
    connection = http.client.HTTPConnection(address, port)
    connection.sock = spot.connect(address, port)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ReadingError(f"GET {path} on {port}: {error!r}") from error
    finally:
        connection.close()


def debug(spot: Spot, path: str) -> Any:
    """A JSON document of the agent's admin port."""
    status, body = get(spot, ADMIN_PORT, path)
    if status != 200:
        raise ReadingError(f"GET {path}: {status} {body[:200]!r}")
    return json.loads(body)


def metrics(spot: Spot) -> list[Sample]:
    """Every sample of /metrics."""
    status, body = get(spot, METRICS_PORT, "/metrics")
    if status != 200:
        raise ReadingError(f"GET /metrics: {status} {body[:200]!r}")
    return [
        Sample(sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    ]


def access_log(path: Path, wanted: dict[str, str], since: int = 0) -> list[dict[str, str]]:
    """The lines of an access log as dicts, filtered, from a byte position on."""
    if not path.exists():
        return []
    keys = {key.replace("_", ".", 1) if key.startswith(("src_", "dst_")) else key: v for key, v in wanted.items()}
    needles = [f"{key}={value}" for key, value in keys.items()]
    text = path.read_bytes()[since:].decode()
    lines = [_fields(line) for line in text.splitlines() if all(needle in line for needle in needles)]
    return [line for line in lines if all(line.get(key) == value for key, value in keys.items())]


def _fields(line: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in shlex.split(line))
    return {key: value for key, _, value in pairs}


def gone(pid: int) -> bool:
    """Whether nothing of a process runs any more: its last thread closes its sockets after it has left its cgroup."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return len(tasks) == 1 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def enrolled(spot: Spot) -> set[str]:
    """Ids of the cgroups that the node's agent takes connections of, as far as their workload has a usable SVID."""
    certificates = debug(spot, "/debug/certs")
    usable = {each["identity"] for each in certificates["identities"] if each["usable"]}
    workloads = [each for each in debug(spot, "/debug/workloads") if each["identity"] in usable]
    return {str(cgroup) for each in workloads for cgroup in each["cgroups"]}
