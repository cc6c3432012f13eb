"""Starting and stopping programs at a place: a network namespace and, where wanted, a cgroup."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import RunError

STOP_GRACE_S = 3.0
LISTEN_WAIT_S = 15.0
POLL_S = 0.02
LOG_TAIL = 600
"""Characters of a program's log that an error quotes."""

LISTEN_STATE = "0A"
"""`st` of a listening socket in /proc/<pid>/net/tcp."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs."""

    netns: str
    """Name under /run/netns."""
    cgroup: Path | None = None
    """Directory of a cgroup v2 group; None: the benchmark's own."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` wrapped so that it runs here, keeps its process id, and dies with the benchmark.

        `nsenter`, because `ip netns exec` mounts a /sys of its own, which hides the cgroups.
        """
        wrapped = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.netns}", "--", *argv]
        if self.cgroup is None:
            return wrapped
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.cgroup / "cgroup.procs"), *wrapped]


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs until it is stopped."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise RunError when the program has ended."""
        if (status := self.popen.poll()) is not None:
            raise RunError(f"{self.name} ended with status {status}: {tail(self.log)}")

    def stop(self) -> None:
        """End it and every process of its session."""
        for number, grace in ((signal.SIGTERM, STOP_GRACE_S), (signal.SIGKILL, STOP_GRACE_S)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)


def tail(log: Path) -> str:
    """The end of a log, on one line."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return " | ".join(text[-LOG_TAIL:].split("\n")).strip() or "(it printed nothing)"


@contextlib.contextmanager
def running(name: str, place: Place, argv: Sequence[str], log: Path) -> Iterator[Process]:
    """The program while the block runs; its output goes to `log`."""
    with log.open("ab") as output:
        popen = subprocess.Popen(
            place.command(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(name, popen, log)
    try:
        yield process
    finally:
        process.stop()


def wait_listening(process: Process, ports: Sequence[int]) -> None:
    """Return when every port has a listener in the process's network namespace."""
    deadline = time.monotonic() + LISTEN_WAIT_S
    while missing := set(ports) - _listening(process.popen.pid):
        process.check()
        if time.monotonic() > deadline:
            raise RunError(
                f"{process.name} does not listen on {sorted(missing)} after {LISTEN_WAIT_S:.0f} s: {tail(process.log)}"
            )
        time.sleep(POLL_S)


def _listening(pid: int) -> set[int]:
    ports = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        fields = (line.split() for line in lines)
        ports |= {int(row[1].rpartition(":")[2], 16) for row in fields if row[3] == LISTEN_STATE}
    return ports


def output_of(place: Place, argv: Sequence[str], timeout: float) -> str:
    """What a program that ends by itself prints; RunError when it fails or takes longer than `timeout` seconds."""
    popen = subprocess.Popen(
        place.command(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = popen.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RunError(f"{argv[0]} had not finished after {timeout:.0f} s") from None
    finally:
        if popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.communicate()
    if popen.returncode != 0:
        raise RunError(f"{argv[0]} ended with status {popen.returncode}: {(err or out)[-LOG_TAIL:].strip()}")
    return out
