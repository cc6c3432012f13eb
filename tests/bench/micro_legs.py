"""What one connection of one host costs with and without a redirect: `python -m tests.bench.micro_legs [rounds]`, as
root. It is the leg between an application and the agent: two event loops in C, 100 bytes there and back, and bulk.

`tcp`: nothing. `kept in the map`: both sockets are in a socket map, all messages take TCP. `to agent`, `to
application`, `both`: bare redirects, one way or both, without flow control. `spliced`: both, under the flow control of
the splice. CPU is that of both processes; what loopback does in softirq is charged to the sender.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nodeagent.loader.objects import MeshObject
from nodeagent.splice.kernel import attach_to_map, splice_calls
from tests.bench.compiled import BPF_COMPILER, BUILT, CLIENTS, compiled
from tests.kernel.conftest import FAMILIES, Lab
from tests.kernel.splicing import SpliceLab

ROUNDS = 7
EXCHANGES = 20_000
OCTETS = 1 << 30
SO_COOKIE = 57
BPF_SK_MSG_VERDICT = 7
Pair = tuple[socket.socket, socket.socket]
"""The application's end and the agent's."""
WAYS: dict[str, tuple[bool, bool] | None] = {
    "tcp": None, "kept in the map": (False, False), "to agent": (True, False), "to application": (False, True),
    "both": (True, True),
}  # fmt: skip


class Redirects:
    """The bare program in the kernel."""

    def __init__(self) -> None:
        self._object = MeshObject(compiled(CLIENTS / "legs.bpf.c", BUILT / "legs.bpf.o", BPF_COMPILER))
        self._object.load()
        attach_to_map(self._object.program_fd("legs_verdict"), self._object.map_fd("legs_hash"), BPF_SK_MSG_VERDICT)

    def close(self) -> None:
        """Once."""
        self._object.close()

    def join(self, pair: Pair, ways: tuple[bool, bool]) -> None:
        """Both ends into the map; messages of the first, of the second go straight to the other."""
        cookies = [each.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8) for each in pair]
        for end, own in zip(pair, cookies, strict=True):
            self._put("legs_hash", own, end.fileno().to_bytes(8, sys.byteorder))
        for end, other, wanted in zip(pair, reversed(cookies), ways, strict=True):
            if wanted:
                self._put("legs_peer", end.fileno().to_bytes(4, sys.byteorder), other)

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        sys_ = splice_calls()
        result = sys_.lib.bpf_map_update_elem(
            self._object.map_fd(name), sys_.ffi.from_buffer(key), sys_.ffi.from_buffer(value), 0
        )
        sys_.check(result, f"cannot write to {name}")


@contextmanager
def leg(redirects: Redirects | None, ways: tuple[bool, bool] | None) -> Iterator[Pair]:
    """A connection over loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), 10) as application,
        listener.accept()[0] as agent,
    ):
        for end in (application, agent):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if redirects is not None and ways is not None:
            redirects.join((application, agent), ways)
        yield application, agent


def timed(pair: Pair, here: str, there: str, count: int) -> tuple[float, float]:
    """Seconds of CPU of both together, and from begin to end at the first."""
    program = compiled(CLIENTS / "legs.c", BUILT / "legs")
    running = [
        subprocess.Popen(
            [program, role, str(end.fileno()), str(count)], pass_fds=[end.fileno()], stdout=subprocess.PIPE, text=True
        )
        for role, end in reversed(list(zip((here, there), pair, strict=True)))
    ]
    cpu, wall = zip(*(map(int, process.communicate()[0].split()) for process in running), strict=True)
    return sum(cpu) / 1e9, wall[1] / 1e9


def measure(pair: Pair) -> dict[str, float]:
    """One round of everything."""
    cpu, wall = timed(pair, "ask", "answer", EXCHANGES)
    found = {"exchange, CPU us": cpu / EXCHANGES * 1e6, "exchange, us": wall / EXCHANGES * 1e6}
    for name, roles in (("to agent", ("send", "read")), ("to application", ("read", "send"))):
        cpu, wall = timed(pair, *roles, OCTETS)
        found[f"bulk {name}, CPU s/GB"] = cpu / OCTETS * 1e9
        found[f"bulk {name}, GB/s"] = OCTETS / wall / 1e9
    return found


def rounds(splice: SpliceLab, number: int) -> dict[str, list[dict[str, float]]]:
    """Every way, in turn, so many times."""
    found: dict[str, list[dict[str, float]]] = {}
    redirects = Redirects()
    for _ in range(number):
        for name, ways in WAYS.items():
            with leg(redirects, ways) as pair:
                found.setdefault(name, []).append(measure(pair))
        with splice.spliced(FAMILIES[0]) as flow:
            found.setdefault("spliced", []).append(measure((flow.client, flow.server)))
    redirects.close()
    return found


def main(argv: list[str]) -> None:
    """Print medians, with the least and the most."""
    if os.geteuid() != 0:
        sys.exit("micro_legs loads BPF programs: run it as root")
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        found = rounds(SpliceLab(Lab(Path(directory), stack)), int(argv[0]) if argv else ROUNDS)
    for metric in found["tcp"][0]:
        print(metric)
        base = statistics.median(row[metric] for row in found["tcp"])
        for name, rows in found.items():
            figures = sorted(row[metric] for row in rows)
            median = statistics.median(figures)
            print(f"  {name:16} {median:7.2f}  ({figures[0]:.2f} to {figures[-1]:.2f})  {median / base:.2f} x")


if __name__ == "__main__":
    main(sys.argv[1:])
