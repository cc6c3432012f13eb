"""A cgroup on a node, and a process in it that opens sockets there and hands them to the test.

Capture is decided by the cgroup and the namespace of whoever calls connect(), so the call is made inside; the bytes are
then moved by the test itself, on the very socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.netns.place import Site
from tests.support.pace import patient

MESSAGE_BYTES = 65536
CALL_SECONDS = patient(30.0)
IO_SECONDS = patient(20.0)
"""Time-out of every socket that is handed out: a story that hangs fails."""


class Spot:
    """A place to stand on a node. `cgroup` is relative to the node's cgroup, for example ``shop/web``."""

    def __init__(self, site: Site, cgroup: str, *, log: Path, env: dict[str, str]) -> None:
        self.site = site
        self.cgroup = site.cgroup / cgroup
        self._log = log
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []

    def command(self, *argv: str | Path) -> list[str]:
        """The command, run inside the cgroup and the namespace (same process id, by exec)."""
        self.cgroup.mkdir(parents=True, exist_ok=True)
        move = 'echo $$ > "$0/cgroup.procs" && exec "$@"'  # at once in its namespace: the agent looks where it is
        return self.site.enter("/bin/sh", "-c", move, str(self.cgroup), *argv)

    def spawn(
        self, *argv: str | Path, env: dict[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program inside; it is killed at the latest when the lab ends. Its output goes to the log."""
        with (log or self._log).open("ab") as output:
            process = subprocess.Popen(
                self.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._env, **(env or {})},
                start_new_session=True,
            )
        self._spawned.append(process)
        return process

    def run(
        self,
        *argv: str | Path,
        stdin: bytes = b"",
        timeout: float = CALL_SECONDS,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside to its end; its output is in the answer."""
        return subprocess.run(
            self.command(*argv),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**self._env, **(env or {})},
        )

    def connect(
        self, address: str, port: int, *, timeout: float = IO_SECONDS, how: str = "plain", first: str = ""
    ) -> socket.socket:
        """A connected socket. An IPv4 address in the form ``::ffff:a.b.c.d`` is dialled from an AF_INET6 socket.

        `how`: plain, non-blocking, mptcp, fastopen-connect, fastopen-sendto. `first` is sent along.
        """
        asked = {"address": address, "port": port, "timeout": timeout, "how": how, "first": first}
        return self._socket({"do": "connect", **asked})

    def listen(self, port: int, *, address: str = "::", backlog: int = 128, kind: str = "plain") -> socket.socket:
        """A listening socket; ``::`` is dual stack, as most servers listen. `kind`: plain, mptcp, reuseport."""
        return self._socket({"do": "listen", "address": address, "port": port, "backlog": backlog, "kind": kind})

    def packets(self, interface: str) -> socket.socket:
        """A socket that sees every frame on the interface."""
        return self._socket({"do": "packets", "interface": interface})

    def stay(self) -> None:
        """Have a process in here from now on."""
        self._ensure()

    @property
    def pids(self) -> list[int]:
        """Of the process that stands in here, if one does."""
        return [self._process.pid] if self._process is not None else []

    def close(self) -> None:
        """End the process inside and reap everything started here (killed by whoever owns the cgroup)."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None
        for process in self._spawned:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._spawned.clear()

    def leave(self) -> None:
        """Let what was started here run on after this program."""
        for process in self._spawned:
            process.returncode = process.poll() or 0  # ours no longer: nobody waits for it
        self._spawned.clear()
        self.close()

    def _socket(self, request: dict[str, Any]) -> socket.socket:
        channel = self._ensure()
        channel.send(json.dumps(request).encode())
        data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
        if not data:
            raise RuntimeError(f"the process in {self.cgroup} is gone; see {self._log}")
        answer = json.loads(data)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        if "timeout" in answer:
            raise TimeoutError(f"{request['do']} to {request.get('address')} port {request.get('port')} timed out")
        received = socket.socket(fileno=descriptors[0])
        received.settimeout(IO_SECONDS)
        return received

    def _ensure(self) -> socket.socket:
        if self._channel is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, self._log.open("ab") as output:
                program = Path(__file__).with_name("inside.py")
                self._process = subprocess.Popen(
                    self.command(sys.executable, "-I", program, str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                )
            ours.settimeout(CALL_SECONDS + IO_SECONDS)
            self._channel = ours
        return self._channel
