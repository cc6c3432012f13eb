"""What the client programs print, read into figures and checked. Pure; a run that was not sound raises RunError."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass

from tests.bench.figures import RunError

MIN_OPERATIONS = 20
"""A run with fewer operations than this says nothing."""


@dataclass(frozen=True, slots=True)
class Operations:
    """A run of request and answer: how many, how fast."""

    count: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int = 0
    """What went wrong; always 0 where errors were not tolerated."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A bulk run, as the receiver counted it."""

    octets: int
    seconds: float


def _json(text: str, program: str) -> dict[str, object]:
    """The last line that is a JSON object, or the whole text."""
    candidates = [text, *reversed([line for line in text.splitlines() if line.startswith("{")])]
    for candidate in candidates:
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise RunError(f"{program} printed no report: {text[-300:]!r}")


def _number(value: object, program: str, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{program}: {field} is no number but {value!r}")
    return float(value)


def _sound(operations: Operations, program: str) -> Operations:
    if operations.count < MIN_OPERATIONS or operations.seconds <= 0:
        raise RunError(f"{program}: only {operations.count} operations in {operations.seconds:.2f} s")
    return operations


def wrk(text: str, body_octets: int, *, tolerant: bool = False) -> Operations:
    """The report of clients/wrk.lua. Every answer must be a 2xx of at least `body_octets`; `tolerant` counts others."""
    report = _json(text, "wrk")
    errors = {
        name.removeprefix("errors_"): int(_number(value, "wrk", name))
        for name, value in report.items()
        if name.startswith("errors_")
    }
    if any(errors.values()) and not tolerant:
        raise RunError(f"wrk saw errors: {', '.join(f'{name} {count}' for name, count in errors.items() if count)}")
    if set(errors) != {"connect", "read", "write", "status", "timeout"}:
        raise RunError(f"wrk: the report lacks error counts, it has {sorted(errors)}")
    count = int(_number(report.get("requests"), "wrk", "requests"))
    octets = _number(report.get("bytes"), "wrk", "bytes")
    if count and octets / count < body_octets and not any(errors.values()):
        raise RunError(f"wrk: answers of {octets / count:.0f} bytes, expected more than {body_octets}")
    return _sound(
        Operations(
            count=count,
            seconds=_number(report.get("duration_us"), "wrk", "duration_us") / 1e6,
            p50_us=_number(report.get("p50_us"), "wrk", "p50_us"),
            p99_us=_number(report.get("p99_us"), "wrk", "p99_us"),
            errors=sum(errors.values()),
        ),
        "wrk",
    )


def ab(text: str, percentages: str, *, tolerant: bool = False) -> Operations:
    """ApacheBench: its report, and the file of `-e` (percentage served, milliseconds); `tolerant` counts failures."""

    def field(name: str) -> float:
        match = re.search(rf"^{re.escape(name)}:\s+([0-9.]+)", text, re.MULTILINE)
        if not match:
            raise RunError(f"ab: no {name!r} in its report: {text[-300:]!r}")
        return float(match[1])

    field("Failed requests")
    errors = 0
    for problem in ("Failed requests", "Write errors", "Non-2xx responses"):
        count = int(field(problem)) if re.search(rf"^{problem}:", text, re.MULTILINE) else 0
        if count and not tolerant:
            raise RunError(f"ab: {problem.lower()} {count}")
        errors += count
    served = {row[0]: row[1] for row in csv.reader(percentages.splitlines()) if len(row) == 2}
    try:
        p50, p99 = float(served["50"]) * 1000, float(served["99"]) * 1000
    except (KeyError, ValueError):
        raise RunError(f"ab: no percentiles in {percentages[:200]!r}") from None
    return _sound(
        Operations(
            count=int(field("Complete requests")),
            seconds=field("Time taken for tests"),
            p50_us=p50,
            p99_us=p99,
            errors=errors,
        ),
        "ab",
    )


def echo(text: str) -> Operations:
    """The report of clients/echo.py `rtt`."""
    report = _json(text, "echo client")
    if "error" in report:
        raise RunError(f"echo client: {report['error']}")
    count, seconds, p50, p99 = (
        _number(report.get(name), "echo client", name) for name in ("count", "seconds", "p50_us", "p99_us")
    )
    return _sound(Operations(int(count), seconds, p50, p99), "echo client")


def bulk(text: str, streams: int) -> Transfer:
    """The report of clients/bulk.c `send`. Every stream must have carried bytes."""
    report = _json(text, "bulk client")
    if "error" in report:
        raise RunError(f"bulk client: {report['error']}")
    carried, seconds = report.get("streams"), _number(report.get("seconds"), "bulk client", "seconds")
    if not isinstance(carried, list) or len(carried) != streams or not all(carried) or seconds <= 0:
        raise RunError(f"bulk client: {streams} streams expected, bytes {carried} in {seconds:.2f} s")
    return Transfer(octets=int(sum(_number(octets, "bulk client", "streams") for octets in carried)), seconds=seconds)


def iperf3(text: str, streams: int) -> Transfer:
    """The JSON report of an iperf3 client. Every stream must have carried bytes."""
    report = _json(text, "iperf3")
    if report.get("error"):
        raise RunError(f"iperf3: {report['error']}")
    try:
        end = report["end"]
        carried = [int(stream["receiver"]["bytes"]) for stream in end["streams"]]  # type: ignore[index]
        total = end["sum_received"]  # type: ignore[index]
        transfer = Transfer(octets=int(total["bytes"]), seconds=float(total["seconds"]))
    except (KeyError, TypeError, ValueError):
        raise RunError(f"iperf3: not the report of a finished run: {text[-300:]!r}") from None
    if len(carried) != streams or not all(carried) or transfer.seconds <= 0:
        raise RunError(f"iperf3: {len(carried)} of {streams} streams, bytes {carried}")
    return transfer
