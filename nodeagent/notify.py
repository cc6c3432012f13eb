"""Reports to the service manager (sd_notify). A report is a datagram of assignments to the socket that NOTIFY_SOCKET
names. Source: sd_notify(3).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

MAX_STATUS: Final = 500
"""Characters of a status; systemd shows one line."""
_MICROSECONDS: Final = 1_000_000

logger = logging.getLogger(__name__)


class ServiceManager:
    """Whoever started this process and wants to hear how it is; nobody, if ``address`` is empty.

    ``address``: a path, or ``@`` and an abstract name. ``watchdog_seconds``: it ends this process unless it hears
    ``alive`` this often; 0: it does not.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds
        self._status = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ServiceManager:
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say. They are meant for this process alone."""
        watchdog = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        seconds = int(watchdog) / _MICROSECONDS if meant and watchdog.isdecimal() else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), seconds)

    def ready(self) -> None:
        """The service is up: units that are ordered after it may start."""
        self._send("READY=1")

    def alive(self) -> None:
        """Do not end this process for another ``watchdog_seconds``."""
        self._send("WATCHDOG=1")

    def stopping(self, seconds: float) -> None:
        """The service ends, which may take so long."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows, if it is not what was said last."""
        line = " ".join(text.split())[:MAX_STATUS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
                sender.setblocking(False)  # a service manager that does not read must not stop the agent
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            logger.warning("the service manager cannot be told %r: %s", text.partition("\n")[0], error)
