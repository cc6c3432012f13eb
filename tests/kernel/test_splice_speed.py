"""How fast it is here, beside plain TCP and the relay: printed for whoever reads the log, not asserted."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests.kernel.conftest import FAMILIES, Lab
from tests.kernel.splicing import SpliceLab
from tests.support.pace import patient

pytestmark = pytest.mark.splice

SIZE = 256 << 20
EXCHANGES = 3000


def forked(function: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def bulk(sender: socket.socket, receiver: socket.socket) -> float:
    """GB/s from process to process."""
    reader, writer = os.pipe()

    def read() -> None:
        began, got, buffer = time.monotonic(), 0, bytearray(256 << 10)
        while got < SIZE:
            got += receiver.recv_into(buffer)
        os.write(writer, struct.pack("d", time.monotonic() - began))

    def write() -> None:
        piece = bytes(128 << 10)
        for _ in range(SIZE // len(piece)):
            sender.sendall(piece)

    children = [forked(read), forked(write)]
    (seconds,) = struct.unpack("d", os.read(reader, 8))
    for pid in children:
        os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return SIZE / seconds / 1e9


def round_trip(client: socket.socket, server: socket.socket) -> float:
    """Microseconds for 100 octets there and back, from process to process."""

    def echo() -> None:
        for _ in range(EXCHANGES):
            server.sendall(server.recv(200))

    pid = forked(echo)
    began = time.monotonic()
    for _ in range(EXCHANGES):
        client.sendall(b"x" * 100)
        client.recv(200)
    took = time.monotonic() - began
    os.waitpid(pid, 0)
    return took / EXCHANGES * 1e6


@pytest.mark.slow
def test_speed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    splice = SpliceLab(lab)
    rows: dict[str, list[tuple[float, float]]] = {"direct": [], "relay": [], "splice": []}
    for _ in range(3):
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname(), 10) as client,
            listener.accept()[0] as server,
        ):
            server.settimeout(patient(10))
            rows["direct"].append((bulk(client, server), round_trip(client, server)))
        for name in ("relay", "splice"):
            splice.controller.switch(on=name == "splice")
            with splice.flow(FAMILIES[0]) as flow:
                if name == "splice":
                    flow.warm_up()
                rows[name].append((bulk(flow.client, flow.server), round_trip(flow.client, flow.server)))
    with capsys.disabled():
        for name, figures in rows.items():
            speeds, times = sorted(speed for speed, _ in figures), sorted(time for _, time in figures)
            print(f"\n  {name:8} bulk {speeds[1]:5.2f} GB/s, round trip {times[1]:6.1f} us", end="")
        print()
