"""Whether the agent's ports are free, whether control answers, and whether its clock agrees with this host's."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from dataclasses import fields
from email.utils import parsedate_to_datetime

import httpx

from nodeagent.config import DNS_PORTS, Config, Ports
from nodeagent.doctor.finding import Finding, Level
from nodeagent.doctor.listeners import holder_of

REACH_SECONDS = 5.0
MAX_SKEW_SECONDS = 30.0
"""Beyond this skew fresh certificates look not yet valid."""
LOOPBACK_ONLY = ("outbound", "admin")


def ports(config: Config, agent_runs: bool) -> list[Finding]:
    """Whether each port of the agent is free; while an agent runs, its ports are its own."""
    if agent_runs:
        return [Finding("ports", Level.GOOD, "the agent of this node listens on its ports")]
    found: list[Finding] = []
    for item in fields(Ports):
        port = getattr(config.ports, item.name)
        if item.name == "dns":
            taken = [n for n in range(port, port + DNS_PORTS) if config.dns and _taken(n, socket.SOCK_DGRAM, True)]
        else:
            taken = [port] if _taken(port, socket.SOCK_STREAM, item.name in LOOPBACK_ONLY) else []
        found += [_taken_port(n, item.name) for n in taken]
    return found or [Finding("ports", Level.GOOD, "all ports of an agent are free")]


def _taken_port(port: int, name: str) -> Finding:
    holder = holder_of(port, socket.SOCK_DGRAM if name == "dns" else socket.SOCK_STREAM)
    setting = f"ports.{name}"
    if holder is None:
        return Finding("ports", Level.BAD, f"{port} ({setting}) is taken by another program",
                       f"find it with 'ss -lnp sport = :{port}', or set {setting}")  # fmt: skip
    return Finding("ports", Level.BAD, f"{port} ({setting}) is taken by {holder}", f"stop it, or set {setting}")


def _taken(port: int, kind: socket.SocketKind, loopback: bool) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1" if loopback else "0.0.0.0", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def control(config: Config, now: float | None = None) -> list[Finding]:
    """Whether control answers, and what its clock says. Its certificate is for the agent to check, not for us."""
    if not config.control:
        return [Finding("control", Level.ODD, "none is configured: the node goes on with what is on its disk",
                        "set control (NODEMESH_CONTROL) to https://HOST:15010")]  # fmt: skip
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with httpx.Client(verify=context, trust_env=False, timeout=REACH_SECONDS) as client:
            answer = client.get(f"{config.control.rstrip('/')}/healthz")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return [Finding("control", Level.BAD, f"{config.control} cannot be reached: {error}",
                        "is 'control run' up there, and is the port open between the hosts?")]  # fmt: skip
    if answer.status_code != httpx.codes.OK:
        return [Finding("control", Level.BAD, f"{config.control} answers HTTP {answer.status_code}",
                        "is that the port of control, and not another server's?")]  # fmt: skip
    return [Finding("control", Level.GOOD, f"{config.control} answers"), clock(answer.headers.get("date", ""), now)]


def clock(date: str, now: float | None = None) -> Finding:
    """How far this host's clock is from control's, by the Date of its answer."""
    try:
        skew = (time.time() if now is None else now) - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Finding("clock", Level.ODD, "control does not tell the time")
    if abs(skew) > MAX_SKEW_SECONDS:
        return Finding("clock", Level.BAD, f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} control's",
                       "set the clocks of both by NTP: certificates are not valid before their time")  # fmt: skip
    return Finding("clock", Level.GOOD, "agrees with control's to the second or so" if abs(skew) < 2
                   else f"within {abs(skew):.0f} s of control's")  # fmt: skip
