from __future__ import annotations

import json

import pytest

from tests.bench import outputs
from tests.bench.figures import RunError

WRK = {
    "requests": 1000,
    "duration_us": 2_000_000,
    "bytes": 240_000,
    "p50_us": 700.0,
    "p99_us": 2100.0,
    "errors_connect": 0,
    "errors_read": 0,
    "errors_write": 0,
    "errors_status": 0,
    "errors_timeout": 0,
}
AB = """Server Software:        nginx/1.22.1

Concurrency Level:      8
Time taken for tests:   2.000 seconds
Complete requests:      2500
Failed requests:        {failed}
{extra}Requests per second:    1250.00 [#/sec] (mean)
"""
AB_SERVED = "Percentage served,Time in ms\n" + "".join(f"{share},{share / 10:.3f}\n" for share in range(100))


def _wrk(**changes: object) -> str:
    return "Running 2s test @ http://127.0.0.1:18080/\n  2 threads\n" + json.dumps({**WRK, **changes}) + "\n"


def test_wrk_report() -> None:
    assert outputs.wrk(_wrk(), 100) == outputs.Operations(count=1000, seconds=2.0, p50_us=700.0, p99_us=2100.0)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_a_wrk_run_with_any_error_is_none(kind: str) -> None:
    with pytest.raises(RunError, match=f"{kind} 3"):
        outputs.wrk(_wrk(**{f"errors_{kind}": 3}), 100)


def test_a_wrk_report_must_count_every_kind_of_error() -> None:
    report = {name: value for name, value in WRK.items() if name != "errors_status"}
    with pytest.raises(RunError, match="lacks error counts"):
        outputs.wrk(json.dumps(report), 100)


def test_wrk_answers_that_are_too_short_are_not_the_servers() -> None:
    with pytest.raises(RunError, match="answers of 60 bytes"):
        outputs.wrk(_wrk(bytes=60_000), 100)


@pytest.mark.parametrize("requests", [0, outputs.MIN_OPERATIONS - 1])
def test_a_run_that_hardly_did_anything_is_none(requests: int) -> None:
    with pytest.raises(RunError, match=f"only {requests} operations"):
        outputs.wrk(_wrk(requests=requests), 100)


@pytest.mark.parametrize("text", ["", "unable to connect to 127.0.0.1:18080 Connection refused\n", "[1]", "{broken"])
def test_wrk_without_a_report(text: str) -> None:
    with pytest.raises(RunError, match="wrk printed no report"):
        outputs.wrk(text, 100)


def test_ab_report() -> None:
    assert outputs.ab(AB.format(failed=0, extra=""), AB_SERVED) == outputs.Operations(
        count=2500, seconds=2.0, p50_us=5000.0, p99_us=9900.0
    )


@pytest.mark.parametrize(
    ("failed", "extra", "message"),
    [
        (7, "", "failed requests 7"),
        (0, "Write errors:           2\n", "write errors 2"),
        (0, "Non-2xx responses:      2500\n", "non-2xx responses 2500"),
    ],
)
def test_an_ab_run_with_any_error_is_none(failed: int, extra: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        outputs.ab(AB.format(failed=failed, extra=extra), AB_SERVED)


def test_a_tolerant_reading_counts_errors() -> None:
    extra = "Write errors:           2\nNon-2xx responses:      5\n"
    assert outputs.ab(AB.format(failed=7, extra=extra), AB_SERVED, tolerant=True).errors == 14
    assert outputs.ab(AB.format(failed=0, extra=""), AB_SERVED, tolerant=True).errors == 0
    assert outputs.wrk(_wrk(errors_status=3, errors_timeout=1), 100, tolerant=True).errors == 4


@pytest.mark.parametrize(("text", "served"), [("", AB_SERVED), (AB.format(failed=0, extra=""), "")])
def test_ab_without_a_report(text: str, served: str) -> None:
    with pytest.raises(RunError, match="ab: no"):
        outputs.ab(text, served)


def test_echo_report() -> None:
    text = json.dumps({"count": 5000, "seconds": 1.0, "p50_us": 180.5, "p99_us": 300.0})
    assert outputs.echo(text) == outputs.Operations(5000, 1.0, 180.5, 300.0)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"error": "Connection refused"}, "Connection refused"),
        ({"count": 5000, "seconds": 1.0, "p50_us": 1.0}, "p99_us is no number"),
        ({"count": True, "seconds": 1.0, "p50_us": 1.0, "p99_us": 1.0}, "count is no number"),
        ({"count": 5000, "seconds": 0.0, "p50_us": 1.0, "p99_us": 1.0}, "only 5000 operations in 0.00 s"),
    ],
)
def test_an_unsound_echo_run_is_none(report: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        outputs.echo(json.dumps(report))


def _iperf3(*streams: int) -> str:
    return json.dumps(
        {
            "end": {
                "streams": [{"sender": {"bytes": 1}, "receiver": {"bytes": octets}} for octets in streams],
                "sum_received": {"bytes": sum(streams), "seconds": 2.0},
            }
        },
        indent=4,
    )


def test_iperf3_report_counts_what_the_receiver_got() -> None:
    assert outputs.iperf3(_iperf3(10**9, 2 * 10**9), 2) == outputs.Transfer(octets=3 * 10**9, seconds=2.0)


@pytest.mark.parametrize(
    ("text", "streams", "message"),
    [
        ('{"error": "the server is busy"}', 1, "the server is busy"),
        ('{"end": {}}', 1, "not the report of a finished run"),
        ("", 1, "printed no report"),
        (_iperf3(10**9), 8, "1 of 8 streams"),
        (_iperf3(10**9, 0), 2, "2 of 2 streams"),
    ],
)
def test_an_unsound_iperf3_run_is_none(text: str, streams: int, message: str) -> None:
    with pytest.raises(RunError, match=message):
        outputs.iperf3(text, streams)


def test_bulk_report_counts_all_streams() -> None:
    text = json.dumps({"seconds": 2.0, "streams": [10**9, 2 * 10**9]})
    assert outputs.bulk(text, 2) == outputs.Transfer(octets=3 * 10**9, seconds=2.0)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"error": "connect: Connection refused"}, "bulk client: connect: Connection refused"),
        ({"seconds": 2.0, "streams": [1]}, "2 streams expected"),
        ({"seconds": 2.0, "streams": [1, 0]}, "2 streams expected"),
        ({"seconds": 0.0, "streams": [1, 1]}, "2 streams expected"),
        ({"seconds": 2.0}, "2 streams expected"),
        ({"seconds": 2.0, "streams": [1, "x"]}, "streams is no number"),
        ({"streams": [1, 1]}, "seconds is no number"),
    ],
)
def test_an_unsound_bulk_run_is_none(report: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        outputs.bulk(json.dumps(report), 2)
