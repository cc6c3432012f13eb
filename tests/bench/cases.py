"""What is measured: a client program, its figures, and the proxies' CPU or memory meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench import outputs
from tests.bench.apps import BODY_OCTETS, echo_command
from tests.bench.figures import RunError, Sample
from tests.bench.processes import LOG_TAIL, output_of
from tests.bench.systems.base import App, Deployment
from tests.bench.usage import measured, settled_pss_kib

WRK_SCRIPT = Path(__file__).parent / "clients" / "wrk.lua"
FINISH_S = 20.0
"""A client program may take this much longer than the run lasts."""
AB_CONCURRENCY = 8
MAX_NEW_CONNECTIONS = 200_000
"""Bound of one run, whatever the time."""
HOLD_S_PER_CONNECTION = 0.05
"""Time allowed for opening idle connections."""
WARM_UP_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line sets."""

    seconds: int
    runs: int
    idle_connections: int
    scratch: Path
    """Directory for files of client programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case; `run` takes the deployment, the settings and the seconds to run."""

    name: str
    app: App
    run: Callable[[Deployment, Settings, int], Sample]
    fresh: bool = False
    """Deploys the system anew for every run, because the run changes it (memory once taken is not given back)."""
    needs_proxies: bool = False
    """Measures nothing but the proxies."""


def _sample(deployment: Deployment, operations: outputs.Operations, cpu_s: float) -> Sample:
    sample = {"rps": operations.count / operations.seconds, "p50_us": operations.p50_us, "p99_us": operations.p99_us}
    if deployment.proxies:
        sample["cpu_us_per_op"] = cpu_s / operations.count * 1e6
    return sample


def _keepalive(connections: int) -> Callable[[Deployment, Settings, int], Sample]:
    def run(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        entry = deployment.entries[App.HTTP]
        with measured(deployment.proxies, deployment.cgroups) as cost:
            text = output_of(
                deployment.client,
                [
                    "wrk",
                    "-t",
                    "1",
                    "-c",
                    str(connections),
                    "-d",
                    f"{seconds}s",
                    "-s",
                    str(WRK_SCRIPT),
                    f"http://{entry.host}:{entry.port}/",
                ],
                seconds + FINISH_S,
            )
        return _sample(deployment, outputs.wrk(text, BODY_OCTETS), cost.cpu_s)

    return run


def _new_connections(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
    entry = deployment.entries[App.HTTP]
    served = settings.scratch / "ab.csv"
    served.unlink(missing_ok=True)
    with measured(deployment.proxies, deployment.cgroups) as cost:
        text = output_of(
            deployment.client,
            [
                "ab",
                "-q",
                "-t",
                str(seconds),
                "-n",
                str(MAX_NEW_CONNECTIONS),
                "-c",
                str(AB_CONCURRENCY),
                "-e",
                str(served),
                f"http://{entry.host}:{entry.port}/",
            ],
            seconds + FINISH_S,
        )
    return _sample(deployment, outputs.ab(text, served.read_text()), cost.cpu_s)


def _echo(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
    entry = deployment.entries[App.ECHO]
    with measured(deployment.proxies, deployment.cgroups) as cost:
        text = output_of(
            deployment.client, echo_command("rtt", entry.host, str(entry.port), str(seconds)), seconds + FINISH_S
        )
    return _sample(deployment, outputs.echo(text), cost.cpu_s)


def _bulk(streams: int) -> Callable[[Deployment, Settings, int], Sample]:
    def run(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        entry = deployment.entries[App.BULK]
        with measured(deployment.proxies, deployment.cgroups) as cost:
            text = output_of(
                deployment.client,
                ["iperf3", "-c", entry.host, "-p", str(entry.port), "-t", str(seconds), "-P", str(streams), "-J"],
                seconds + FINISH_S,
            )
        transfer = outputs.iperf3(text, streams)
        sample = {"gbit_s": transfer.octets * 8 / transfer.seconds / 1e9}
        if deployment.proxies:
            sample["cpu_s_per_gb"] = cost.cpu_s / (transfer.octets / 1e9)
        return sample

    return run


def _idle_memory(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
    """Growth of the proxies' memory per connection that carried one byte each way and then stays open."""
    _echo(deployment, settings, WARM_UP_S)
    before = settled_pss_kib(deployment.proxies)
    with _held(deployment, settings.idle_connections):
        after = settled_pss_kib(deployment.proxies)
    return {"kib_per_connection": (after - before) / settings.idle_connections}


@contextlib.contextmanager
def _held(deployment: Deployment, connections: int) -> Iterator[None]:
    """That many open connections while the block runs."""
    entry = deployment.entries[App.ECHO]
    argv = deployment.client.command(echo_command("hold", entry.host, str(entry.port), str(connections)))
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as popen:
        assert popen.stdout is not None
        patience = threading.Timer(FINISH_S + connections * HOLD_S_PER_CONNECTION, popen.kill)
        patience.start()
        try:
            said = popen.stdout.readline().strip()
            if said != "ready":
                raise RunError(f"{connections} connections were not opened: {said[-LOG_TAIL:] or 'no answer in time'}")
            patience.cancel()
            yield
            if popen.poll() is not None:
                raise RunError("the client that holds the connections ended early")
        finally:
            patience.cancel()
            popen.kill()


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(name="http-keepalive-16", app=App.HTTP, run=_keepalive(16)),
        Case(name="http-keepalive-64", app=App.HTTP, run=_keepalive(64)),
        Case(name="echo-rtt", app=App.ECHO, run=_echo),
        Case(name="bulk", app=App.BULK, run=_bulk(1)),
        Case(name="bulk-8", app=App.BULK, run=_bulk(8)),
        Case(name="new-connections", app=App.HTTP, run=_new_connections),
        Case(name="idle-memory", app=App.ECHO, run=_idle_memory, fresh=True, needs_proxies=True),
    )
}
