"""The soak: keep-alive requests, a bulk transfer and short connections at the same time, for as long as wanted.

Unlike in the other cases an error does not end the run: errors are counted, and must be 0 (`rounds` says so).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.bench import outputs
from tests.bench.apps import BODY_OCTETS
from tests.bench.cases import (
    FINISH_S,
    OPERATIONS,
    Case,
    Settings,
    ab_command,
    iperf3_command,
    per_operation,
    wrk_command,
)
from tests.bench.figures import Sample
from tests.bench.processes import output_of
from tests.bench.systems.base import App, Deployment
from tests.bench.usage import measured

KEEPALIVE_CONNECTIONS = 16
CHURN_CONCURRENCY = 4
BULK_STREAMS = 2
BULK_RATE = "200M"
"""Of each stream, in bits a second: at full speed the bulk would leave the others nothing."""


def _soak(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
    """Requests (of both kinds) a second, with the CPU of everything, bulk included, shared out on them."""
    http, bulk = deployment.entries[App.HTTP], deployment.entries[App.IPERF3]
    served = settings.scratch / "soak.csv"
    served.unlink(missing_ok=True)
    commands = (
        wrk_command(http, KEEPALIVE_CONNECTIONS, seconds),
        ab_command(http, CHURN_CONCURRENCY, seconds, served, "-r"),
        [*iperf3_command(bulk, BULK_STREAMS, seconds), "-b", BULK_RATE],
    )
    with measured(deployment) as cost, ThreadPoolExecutor(len(commands)) as pool:
        running = [pool.submit(output_of, deployment.client, command, seconds + FINISH_S) for command in commands]
        requests, connections, transfer = (future.result() for future in running)
    kept = outputs.wrk(requests, BODY_OCTETS, tolerant=True)
    churned = outputs.ab(connections, served.read_text(), tolerant=True)
    moved = outputs.iperf3(transfer, BULK_STREAMS)
    return {
        "rps": kept.count / kept.seconds + churned.count / churned.seconds,
        "p50_us": kept.p50_us,
        "p99_us": kept.p99_us,
        "gbit_s": moved.octets * 8 / moved.seconds / 1e9,
        "errors": float(kept.errors + churned.errors),
        **per_operation(deployment, kept.count + churned.count, cost),
    }


SOAK = Case(
    name="soak",
    app=App.HTTP,
    metrics=OPERATIONS | {"gbit_s", "errors"},
    more_apps=frozenset({App.IPERF3}),
    run=_soak,
    lasts=lambda settings: settings.soak_seconds,
)
