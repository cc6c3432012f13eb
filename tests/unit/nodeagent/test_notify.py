"""What the service manager hears, over a real datagram socket: by path and by abstract name."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.notify import MAX_STATUS, ServiceManager


class Systemd:
    def __init__(self, address: str, bound: socket.socket) -> None:
        self.address, self.bound = address, bound
        bound.settimeout(5)

    def hears(self) -> str:
        return self.bound.recv(65536).decode()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@nodemesh-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0", 1))
        yield Systemd(name, bound)


def test_each_word_is_one_datagram(systemd: Systemd) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": systemd.address})
    service.ready()
    service.alive()
    service.stopping(2.5)
    assert [systemd.hears() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=2500000"]


def test_a_status_is_one_line_and_is_said_once(systemd: Systemd) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": systemd.address})
    for text in ("two\nlines", "two lines", "x" * 10_000, "last"):
        service.status(text)
    assert [systemd.hears() for _ in range(3)] == ["STATUS=two lines", f"STATUS={'x' * MAX_STATUS}", "STATUS=last"]


def test_nobody_listens_and_nothing_breaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager.of({}).ready()
    assert not caplog.records
    ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "cannot be told 'READY=1'" in caplog.text


def test_a_service_manager_that_does_not_read_does_not_stop_the_agent(systemd: Systemd) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": systemd.address})
    for _ in range(10_000):
        service.alive()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "60000000"}, 60),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_the_watchdog_is_as_the_environment_says(environment: dict[str, str], seconds: float) -> None:
    assert ServiceManager.of(environment).watchdog_seconds == seconds
