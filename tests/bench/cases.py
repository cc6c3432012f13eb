"""What is measured: a client program, its figures, and the CPU or memory that it takes meanwhile.

`soak` is in a file of its own.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import outputs
from tests.bench.apps import BODY_OCTETS, echo_command
from tests.bench.compiled import bulk_program
from tests.bench.figures import PROXY_METRICS, RunError, Sample
from tests.bench.outputs import Transfer
from tests.bench.processes import LOG_TAIL, output_of
from tests.bench.systems.base import App, Deployment, Entry, System
from tests.bench.usage import Cost, measured, settled_pss_kib

WRK_SCRIPT = Path(__file__).parent / "clients" / "wrk.lua"
FINISH_S = 20.0
"""A client program may take this much longer than the run lasts."""
AB_CONCURRENCY = 8
MAX_PER_S = 50_000
"""New connections: the bound of one run, for each of its seconds. Out of reach; ab wants one."""
MAX_CONNECTIONS_MADE = 20_000_000
"""And in all: ab reserves memory for each."""
HOLD_S_PER_CONNECTION = 0.05
"""Time allowed for opening idle connections."""
HOLD_RATE_PER_S = 330
"""How many of them each of five systems opens in a second: for the estimate of the time a run takes."""
SETTLE_ALLOWANCE_S = 2
WARM_UP_S = 1

OPERATIONS = frozenset({"rps", "p50_us", "p99_us", "cpu_us_per_op", "cpu_all_us_per_op", "softirq_us_per_op"})
"""The metrics of requests, messages or connections."""
VOLUME = frozenset({"gbit_s", "cpu_s_per_gb", "cpu_all_s_per_gb", "softirq_s_per_gb"})
MEMORY = frozenset({"kib_per_connection"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line sets."""

    seconds: int
    runs: int
    idle_connections: int
    soak_seconds: int
    scratch: Path
    """Directory for files of client programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case; `run` takes the deployment, the settings and the seconds to run."""

    name: str
    app: App
    run: Callable[[Deployment, Settings, int], Sample]
    fresh: bool = False
    """Deploys the systems anew for every run, because the run changes them (memory once taken is not given back), and
    runs all of them at the same time: for figures that do not depend on how busy the machine is."""
    metrics: frozenset[str]
    """What a run gives; of a system without proxies all but `PROXY_METRICS`."""
    more_apps: frozenset[App] = frozenset()
    """Server programs besides `app`."""
    lasts: Callable[[Settings], int] = lambda settings: settings.seconds
    """The `seconds` of a run; of a fresh case, about what it takes."""

    def wants(self, system: System) -> bool:
        """Whether the system has anything that this case measures."""
        return bool(self.gives(has_proxies=system.has_proxies))

    @property
    def apps(self) -> frozenset[App]:
        """Every server program that it needs."""
        return self.more_apps | {self.app}

    def gives(self, *, has_proxies: bool) -> frozenset[str]:
        """Every metric of a system with or without proxies; empty: such a system takes no part."""
        return self.metrics if has_proxies else self.metrics - PROXY_METRICS


def per_operation(deployment: Deployment, count: int, cost: Cost) -> dict[str, float]:
    """CPU for each of `count` operations; of the proxies only where there are any."""
    sample = {"cpu_all_us_per_op": cost.all_s / count * 1e6, "softirq_us_per_op": cost.softirq_s / count * 1e6}
    if deployment.proxies:
        sample["cpu_us_per_op"] = cost.proxies_s / count * 1e6
    return sample


def _sample(deployment: Deployment, operations: outputs.Operations, cost: Cost) -> Sample:
    return {
        "rps": operations.count / operations.seconds,
        "p50_us": operations.p50_us,
        "p99_us": operations.p99_us,
        **per_operation(deployment, operations.count, cost),
    }


def wrk_command(entry: Entry, connections: int, seconds: int) -> list[str]:
    """Keep-alive requests on that many connections."""
    url = f"http://{entry.host}:{entry.port}/"
    return ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(WRK_SCRIPT), url]


def ab_command(entry: Entry, concurrency: int, seconds: int, served: Path, *more: str) -> list[str]:
    """A connection for each request; percentiles go to the file `served`."""
    most = min(MAX_PER_S * seconds, MAX_CONNECTIONS_MADE)
    options = ["-t", str(seconds), "-n", str(most), "-c", str(concurrency), "-e", str(served), *more]
    return ["ab", "-q", *options, f"http://{entry.host}:{entry.port}/"]


def bulk_command(entry: Entry, streams: int, seconds: int) -> list[str]:
    """As many bytes as go through, from an event loop to an event loop."""
    return [str(bulk_program()), "send", entry.host, str(entry.port), str(streams), str(seconds)]


def iperf3_command(entry: Entry, streams: int, seconds: int) -> list[str]:
    """As many bytes as go through, from the client to the server."""
    return ["iperf3", "-c", entry.host, "-p", str(entry.port), "-t", str(seconds), "-P", str(streams), "-J"]


def _keepalive(connections: int) -> Callable[[Deployment, Settings, int], Sample]:
    def run(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        command = wrk_command(deployment.entries[App.HTTP], connections, seconds)
        with measured(deployment) as cost:
            text = output_of(deployment.client, command, seconds + FINISH_S)
        return _sample(deployment, outputs.wrk(text, BODY_OCTETS), cost)

    return run


def _new_connections(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
    served = settings.scratch / "ab.csv"
    served.unlink(missing_ok=True)
    command = ab_command(deployment.entries[App.HTTP], AB_CONCURRENCY, seconds, served)
    with measured(deployment) as cost:
        text = output_of(deployment.client, command, seconds + FINISH_S)
    return _sample(deployment, outputs.ab(text, served.read_text()), cost)


def _echo(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
    entry = deployment.entries[App.ECHO]
    with measured(deployment) as cost:
        text = output_of(
            deployment.client, echo_command("rtt", entry.host, str(entry.port), str(seconds)), seconds + FINISH_S
        )
    return _sample(deployment, outputs.echo(text), cost)


def _bulk(
    app: App, streams: int, command: Callable[[Entry, int, int], list[str]], read: Callable[[str, int], Transfer]
) -> Callable[[Deployment, Settings, int], Sample]:
    def run(deployment: Deployment, settings: Settings, seconds: int) -> Sample:
        argv = command(deployment.entries[app], streams, seconds)
        with measured(deployment) as cost:
            text = output_of(deployment.client, argv, seconds + FINISH_S)
        transfer = read(text, streams)
        gigabytes = transfer.octets / 1e9
        sample = {
            "gbit_s": gigabytes * 8 / transfer.seconds,
            "cpu_all_s_per_gb": cost.all_s / gigabytes,
            "softirq_s_per_gb": cost.softirq_s / gigabytes,
        }
        if deployment.proxies:
            sample["cpu_s_per_gb"] = cost.proxies_s / gigabytes
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


def _idle_lasts(settings: Settings) -> int:
    return WARM_UP_S + SETTLE_ALLOWANCE_S + math.ceil(settings.idle_connections / HOLD_RATE_PER_S)


def _shorter(settings: Settings) -> int:
    """Of cases whose runs differ little: one second less."""
    return max(1, settings.seconds - 1)


SINGLE = (
    Case(name="http-keepalive-16", app=App.HTTP, metrics=OPERATIONS, run=_keepalive(16)),
    Case(name="http-keepalive-64", app=App.HTTP, metrics=OPERATIONS, run=_keepalive(64)),
    Case(name="echo-rtt", app=App.ECHO, metrics=OPERATIONS, run=_echo, lasts=_shorter),
    *(
        Case(
            name=f"bulk{suffix}",
            app=app,
            metrics=VOLUME,
            run=_bulk(app, streams, command, read),
            lasts=_shorter,
        )
        for suffix, app, streams, command, read in (
            ("", App.BULK, 1, bulk_command, outputs.bulk),
            ("-8", App.BULK, 8, bulk_command, outputs.bulk),
            ("-iperf3", App.IPERF3, 1, iperf3_command, outputs.iperf3),
        )
    ),
    Case(name="new-connections", app=App.HTTP, metrics=OPERATIONS, run=_new_connections),
    Case(name="idle-memory", app=App.ECHO, metrics=MEMORY, run=_idle_memory, fresh=True, lasts=_idle_lasts),
)
"""The cases of one kind of traffic each."""
