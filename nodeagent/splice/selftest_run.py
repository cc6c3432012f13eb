"""The self-test's process, watched: it is let be for as long as one trial after the other ends, however slow the
machine is, and ended when nothing has come of one for too long. What did not come to its end forbids splicing.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nodeagent.splice import selftest
from nodeagent.splice.controller import DEFAULT_LIMIT
from nodeagent.splice.selftest import WHOLE, Item, Result, SelfTest, told_by

ITEM_SECONDS: Final = 15.0
"""How long a trial may take, and the process until its first: hundreds of times what they take on an idle machine."""
TOTAL_SECONDS: Final = 90.0
"""How long all of it may take."""
REAP_SECONDS: Final = 1.0
"""How long a process that was killed is waited for; one that the kernel holds on to is left alone."""
MAX_LINE_BYTES: Final = 64 * 1024
"""A longer line is no line of the self-test."""
MAX_ITEMS: Final = 256
MAX_ERROR_BYTES: Final = 8 * 1024
"""Of the end of stderr."""
_CHUNK: Final = 64 * 1024


class Account:
    """What the process has told so far, and when; pure. Times are of one monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._began = self._heard = now
        self._line = b""
        self.items: list[Item] = []
        self.current = ""
        """The trial that is being made; empty: none."""

    def tell(self, data: bytes, now: float) -> None:
        """Octets of its stdout. ValueError if they are not what a self-test says."""
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > MAX_LINE_BYTES or len(self.items) + len(lines) > MAX_ITEMS:
            raise ValueError("it says more than a self-test has to say")
        for line in lines:
            told = told_by(line)
            if isinstance(told, str):
                self.current = told
            else:
                self.items.append(told)
                self.current = ""
            self._heard = now

    @property
    def patience_ends(self) -> float:
        """When ``late`` has something to say, unless something is told before."""
        return min(self._heard + ITEM_SECONDS, self._began + TOTAL_SECONDS)

    def late(self, now: float) -> str:
        """Why it is not waited for any longer; empty if it is."""
        if now >= self._began + TOTAL_SECONDS:
            return f"it was not through within {TOTAL_SECONDS:g} s: {self._passed()}, {self._place()} had not finished"
        if now >= self._heard + ITEM_SECONDS:
            return f"{self._place()} did not finish within {ITEM_SECONDS:g} s ({self._passed()})"
        return ""

    def ended(self, status: int, words: str, now: float) -> SelfTest:
        """The process is gone, with this exit status and these last words."""
        if status:
            return self.broken(f"its process failed (status {status}) in {self._place()}: {words or 'no word'}", now)
        if self.current or not self.items:
            return self.broken(f"its process ended in {self._place()}", now)
        return SelfTest(tuple(self.items), now - self._began)

    def broken(self, why: str, now: float) -> SelfTest:
        """It did not come to its end: what was found before, and that."""
        return SelfTest((*self.items, Item(WHOLE, Result.FAIL, why)), now - self._began)

    def _place(self) -> str:
        if self.current:
            return f"the item {self.current}"
        return f"what comes after {self.items[-1].name}" if self.items else "its start"

    def _passed(self) -> str:
        return f"{sum(item.result is not Result.FAIL for item in self.items)} items had passed"


class SelfTestRun:
    """The process and its scratch cgroup, from construction (which never raises) to ``close`` or the end."""

    def __init__(self, command: Sequence[str], scratch: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._scratch = scratch
        self._words = b""
        self._found: SelfTest | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self.account = Account(clock())
        try:
            scratch.mkdir(exist_ok=True)
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )  # fmt: skip
        except OSError as error:
            self._end(self.account.broken(f"it did not start: {error}", clock()))
            return
        assert self._process.stdout is not None and self._process.stderr is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ, self._hear)
        self._selector.register(self._process.stderr, selectors.EVENT_READ, self._hear_error)

    def wait(self, seconds: float) -> SelfTest | None:
        """What was found, as soon as it is known; None: not within ``seconds``, ask again. 0 does not block."""
        until = self._clock() + seconds
        while self._found is None:
            try:
                self._listen(min(until, self.account.patience_ends) - self._clock())
            except (OSError, ValueError) as error:
                self._end(self.account.broken(f"its process cannot be understood: {error}", self._clock()))
            now = self._clock()
            why = self.account.late(now)
            if self._found is None and why:
                self._end(self.account.broken(why, now))
            if now >= until:
                break
        return self._found

    def close(self) -> None:
        """Nobody wants to know any more."""
        if self._found is None:
            self._end(self.account.broken("it was given up", self._clock()))

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(max(0.0, seconds)):
            data = os.read(key.fd, _CHUNK)
            if data:
                key.data(data)
            else:
                self._selector.unregister(key.fileobj)
        if not self._selector.get_map():
            # Both are closed by a process that exits, whose status is settled by then: to kill it changes nothing.
            self._reap()
            assert self._process is not None
            words = self._words.decode(errors="replace").strip().rpartition("\n")[2]
            status = self._process.returncode
            self._end(self.account.ended(-1 if status is None else status, words, self._clock()))

    def _hear(self, data: bytes) -> None:
        self.account.tell(data, self._clock())

    def _hear_error(self, data: bytes) -> None:
        self._words = (self._words + data)[-MAX_ERROR_BYTES:]

    def _end(self, found: SelfTest) -> None:
        self._found = found
        self._reap()
        if self._process is not None:
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None
                pipe.close()
        self._selector.close()
        with contextlib.suppress(OSError):  # a process that was killed is still leaving; an empty cgroup harms nobody
            self._scratch.rmdir()

    def _reap(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel hangs; Popen reaps it when it comes out
            self._process.wait(REAP_SECONDS)


def begin(pin_dir: Path, cgroup_root: Path, limit: int = DEFAULT_LIMIT) -> SelfTestRun:
    """Test what a ``SpliceController`` put in force at ``pin_dir``; it never raises."""
    scratch = cgroup_root / f"nodemesh-selftest-{os.getpid()}"
    command = [sys.executable, "-m", selftest.__name__, str(pin_dir), str(scratch), str(limit)]
    return SelfTestRun(command, scratch)


def run(pin_dir: Path, cgroup_root: Path, limit: int = DEFAULT_LIMIT) -> SelfTest:
    """... and wait for the end, for TOTAL_SECONDS at most."""
    test = begin(pin_dir, cgroup_root, limit)
    found = None
    while found is None:
        found = test.wait(TOTAL_SECONDS)
    return found
