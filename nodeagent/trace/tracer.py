"""The child process that has BCC, held by its standard input: whatever ends this process ends the trace too."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from nodeagent.trace.obstacles import PROBE, CannotTraceError, ExitStatus, Obstacle

START_SECONDS: Final = 600.0
"""BCC compiles meanwhile: seconds, but minutes on an emulated processor (224 s were seen in vm-lab)."""
STOP_SECONDS: Final = 5.0
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_ERROR_BYTES: Final = 4096
"""Of what the compiler and the verifier say; the end is what matters."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the probe is to do; the kernel filters."""

    capture_port: int
    own_port: int | None
    """Where this process asks the agent for names: not shown."""
    port: int | None
    """Either end of the socket, or its original destination."""
    cgroups: Sequence[int] | None
    flow_pin: str | None
    """Path of the pinned flow records; None: no agent has loaded them."""
    flow_entries: int


class Tracer:
    """Start with ``with``: it is attached then, or CannotTraceError is raised."""

    def __init__(self, python: str, order: Order, probe: Path = PROBE) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._child = subprocess.Popen(
            [python, "-I", str(probe)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words,
            start_new_session=True,
        )  # fmt: skip
        assert self._child.stdin is not None and self._child.stdout is not None
        self._input, self._output = self._child.stdin, self._child.stdout
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._order = order
        self.lost = 0
        """Events for which the kernel's buffer had no room."""
        self.missing: tuple[str, ...] = ()
        """Tracepoints that this kernel does not have."""

    def __enter__(self) -> Tracer:
        try:
            self._say(asdict(self._order))
            self._wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (message := self._next(deadline - time.monotonic())) is None:
            if time.monotonic() >= deadline:
                raise self._failure(ExitStatus.KERNEL_REFUSED, f"BCC has not compiled within {START_SECONDS:g} s")
        self.missing = tuple(message.get("ready", {}).get("missing", ()))

    def narrow(self, cgroups: Sequence[int]) -> None:
        """Another set of cgroups for the kernel's filter."""
        self._say({"cgroups": list(cgroups)})

    def events(self, seconds: float) -> Iterator[dict[str, Any]]:
        """What has come, waiting for at most so long for the first. CannotTraceError if the probe has died."""
        message = self._next(seconds)
        while message is not None:
            if "event" in message:
                yield message["event"]
            self.lost += int(message.get("lost", 0))
            message = self._next(0) if self._lines else None

    def _say(self, order: dict[str, Any]) -> None:
        try:
            self._input.write(json.dumps(order).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError:
            return  # it is dead, which the next read finds out, with its last words

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if there is none in time."""
        deadline = time.monotonic() + max(seconds, 0)
        while not self._lines:
            if not select.select([self._output], [], [], max(deadline - time.monotonic(), 0))[0]:
                return None
            chunk = os.read(self._output.fileno(), 65536)
            if not chunk or len(self._rest) > MAX_LINE_BYTES:
                raise self._failure(ExitStatus.LOST_PROBE, "the tracing process has died")
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._lines.extend(lines)
        try:
            message = json.loads(self._lines.popleft())
        except ValueError as error:
            raise self._failure(ExitStatus.LOST_PROBE, "the tracing process says what is not JSON") from error
        if not isinstance(message, dict):
            raise self._failure(ExitStatus.LOST_PROBE, "the tracing process says what is not understood")
        if "failed" in message:
            raise self._failed(str(message["failed"]), str(message.get("text")))
        return message

    def _failed(self, what: str, text: str) -> CannotTraceError:
        if what == "bcc":
            return self._failure(ExitStatus.NO_BCC, f"BCC cannot be used: {text}")
        if what == "tracefs":
            return self._failure(ExitStatus.NO_TRACEFS, text)
        return self._failure(
            ExitStatus.KERNEL_REFUSED,
            f"BCC cannot compile or load the program ({text}). If the headers are another kernel's, install those of "
            "the running one; if the kernel is locked down (/sys/kernel/security/lockdown), it forbids this",
        )

    def _failure(self, status: ExitStatus, text: str) -> CannotTraceError:
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - MAX_ERROR_BYTES))
        words = self._words.read().decode(errors="replace").strip()
        return CannotTraceError([Obstacle(status, text + (f"; it says:\n{words}" if words else ""))])

    def close(self) -> None:
        """End the child; the kernel detaches what it attached. Called twice it does nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._output.close()
        self._words.close()
