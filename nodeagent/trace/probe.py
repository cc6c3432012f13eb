"""The half of ``nodeagent trace`` that needs BCC: a program of its own, for whichever Python has it (Debian's
python3-bpfcc is for /usr/bin/python3 only). Imports nothing of nodemesh.

Input: one line of JSON, the order (``capture_port``, ``own_port``, ``port``, ``cgroups``, ``flow_pin``,
``flow_entries``; null where it does not apply); later lines ``{"cgroups": [...]}`` change the filter. Its end is the
order to stop, so that nothing stays attached when the parent dies. Output: one JSON object a line: ``ready``,
``event``, ``lost`` or ``failed``.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

KERNEL = Path(__file__).with_name("kernel.c")
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
REQUIRED = "sock:inet_sock_set_state"
OPTIONAL = (
    "syscalls:sys_enter_connect", "tcp:tcp_retransmit_skb", "tcp:tcp_send_reset", "tcp:tcp_receive_reset",
    "tcp:tcp_destroy_sock",
)  # fmt: skip
POLL_MILLISECONDS = 100
MAX_ORDER_BYTES = 4 * 1024 * 1024
KINDS = {
    1: "connect", 2: "connect-failed", 3: "state", 4: "retransmit", 5: "reset-sent", 6: "reset-received",
    7: "destroy", 8: "accept",
}  # fmt: skip
STATES = {
    1: "established", 2: "syn-sent", 3: "syn-recv", 4: "fin-wait-1", 5: "fin-wait-2", 6: "time-wait", 7: "close",
    8: "close-wait", 9: "last-ack", 10: "listen", 11: "closing", 12: "new-syn-recv",
}  # fmt: skip
ASKED, SINCE, CLIENT, SERVER = 1, 2, 4, 8
_MAPPED = bytes(10) + b"\xff\xff"
_REASON = re.compile(r'\{ (\d+), "(\w+)" \}')


class End(ctypes.Structure):
    """``struct end``."""

    _fields_ = (("address", ctypes.c_ubyte * 16), ("port", ctypes.c_uint16), ("pad", ctypes.c_uint16))


class KernelEvent(ctypes.Structure):
    """``struct event``."""

    _fields_ = (
        ("time", ctypes.c_uint64), ("socket", ctypes.c_uint64), ("netns", ctypes.c_uint64), ("cgroup", ctypes.c_uint64),
        ("client_cgroup", ctypes.c_uint64), ("duration", ctypes.c_uint64), ("sent", ctypes.c_uint64),
        ("received", ctypes.c_uint64), ("local", End), ("remote", End), ("asked", End), ("pid", ctypes.c_uint32),
        ("client_pid", ctypes.c_uint32), ("retransmits", ctypes.c_uint32), ("reason", ctypes.c_uint32),
        ("error", ctypes.c_int32), ("kind", ctypes.c_uint8), ("flags", ctypes.c_uint8), ("old_state", ctypes.c_uint8),
        ("state", ctypes.c_uint8), ("comm", ctypes.c_char * 16),
    )  # fmt: skip


class OrderEndedError(Exception):
    """The parent wants no more."""


def endpoint(end: End) -> str | None:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``; None where nothing is known. A port that is not known yet is ``-``."""
    packed = bytes(end.address)
    if not end.port and (packed == _MAPPED + bytes(4) or not any(packed)):
        return None
    port = end.port or "-"
    if packed.startswith(_MAPPED):
        return f"{socket.inet_ntoa(packed[12:])}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{port}"


def document(event: Any, clock: int, reasons: dict[int, str]) -> dict[str, Any]:
    """The event as the parent reads it. ``clock``: Unix time less CLOCK_MONOTONIC, in nanoseconds."""
    flags = event.flags
    found: dict[str, Any] = {
        "event": KINDS.get(event.kind, str(event.kind)), "time_ns": event.time + clock, "socket": f"{event.socket:x}",
        "netns": event.netns, "local": endpoint(event.local), "remote": endpoint(event.remote),
        "asked": endpoint(event.asked) if flags & ASKED else None,
        "side": "client" if flags & CLIENT else "server" if flags & SERVER else None,
        "cgroup": event.cgroup or None, "client_cgroup": event.client_cgroup or None,
        "pid": event.pid or None, "client_pid": event.client_pid or None,
        "comm": event.comm.decode("utf-8", "replace") or None,
        "old_state": STATES.get(event.old_state), "state": STATES.get(event.state), "error": event.error or None,
    }  # fmt: skip
    if found["event"] == "reset-sent" and event.reason:
        found["reason"] = reasons.get(event.reason, str(event.reason)).lower()
    if found["event"] == "destroy":
        found["bytes_sent"], found["bytes_received"] = event.sent, event.received
        found["retransmits"] = event.retransmits
        found["seconds"] = event.duration / 1e9 if flags & SINCE else None
    return found


def program(order: dict[str, Any], formats: dict[str, str]) -> str:
    """The C source: definitions for what was ordered and what this kernel has, then kernel.c. ``formats``: the format
    file of every tracepoint that exists.
    """
    defines: dict[str, Any] = {f"HAVE_{name.partition(':')[2]}": 1 for name in formats}
    if re.search(r"\breason;", formats.get("tcp:tcp_send_reset", "")):
        defines["HAVE_RESET_REASON"] = 1
    if order.get("capture_port"):
        defines["CAPTURE_PORT"] = int(order["capture_port"])
    if order.get("own_port"):
        defines["OWN_PORT"] = int(order["own_port"])
    if order.get("port"):
        defines["FILTER_PORT"] = int(order["port"])
    if order.get("cgroups") is not None:
        defines["FILTER_CGROUPS"] = 1
    if order.get("flow_pin"):
        defines["FLOW_PIN"] = json.dumps(order["flow_pin"])
        defines["FLOW_ENTRIES"] = int(order["flow_entries"])
    return "".join(f"#define {name} {value}\n" for name, value in defines.items()) + KERNEL.read_text()


def tracepoints(roots: tuple[Path, ...] = TRACEFS) -> dict[str, str]:
    """The tracepoints of ours that this kernel has, with their formats; empty if tracefs is not mounted."""
    found = {}
    for name in (REQUIRED, *OPTIONAL):
        for root in roots:
            path = root / "events" / name.replace(":", "/") / "format"
            if path.exists():
                found[name] = path.read_text()
                break
    return found


def reset_reasons(formats: dict[str, str]) -> dict[int, str]:
    """The kernel's own names for why it sends a reset (from 6.10 on)."""
    _, _, tail = formats.get("tcp:tcp_send_reset", "").partition("__print_symbolic(REC->reason")
    return {int(number): name for number, name in _REASON.findall(tail)}


class Orders:
    """Lines on standard input, read without ever waiting for one."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._pending = b""

    def next(self, seconds: float | None) -> dict[str, Any] | None:
        """The next order; None if there is none within the time (None: any time). OrderEndedError at the end."""
        while b"\n" not in self._pending:
            if not select.select([self._descriptor], [], [], seconds)[0]:
                return None
            chunk = os.read(self._descriptor, 65536)
            if not chunk or len(self._pending) > MAX_ORDER_BYTES:
                raise OrderEndedError
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


def say(**message: Any) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def bcc_class() -> Any:
    """BCC's BPF class, or a sentence that says why there is none."""
    try:
        import bcc  # noqa: PLC0415 - what this is about
    except ImportError as error:
        return f"no module bcc ({error})"
    except Exception as error:
        return f"the module bcc cannot be imported ({error})"
    where = getattr(bcc, "__file__", None) or "a directory named bcc"
    return getattr(bcc, "BPF", None) or f"{where} is another package of the same name (PyPI's bcc is a lattice library)"


def set_cgroups(table: Any, wanted: list[int]) -> None:
    """Make the filter's set what the parent says."""
    before, after = {key.value for key in table}, set(wanted)
    for cgroup in after - before:
        table[ctypes.c_uint64(cgroup)] = ctypes.c_uint8(1)
    for cgroup in before - after:
        del table[ctypes.c_uint64(cgroup)]


def follow(bpf: Any, orders: Orders, reasons: dict[int, str]) -> None:
    """Events to the parent until it has had enough."""
    clock = time.time_ns() - time.monotonic_ns()
    told = 0

    def tell(_context: Any, data: int, _size: int) -> None:
        say(event=document(ctypes.cast(data, ctypes.POINTER(KernelEvent)).contents, clock, reasons))

    bpf["events"].open_ring_buffer(tell)
    while True:
        bpf.ring_buffer_poll(POLL_MILLISECONDS)
        while (order := orders.next(0)) is not None:
            if "cgroups" in order:
                set_cgroups(bpf["cgroups"], order["cgroups"])
        lost = bpf["lost"][ctypes.c_int(0)].value
        if lost > told:
            say(lost=lost - told)
            told = lost


def run() -> None:
    """Obey the first order, and say what went wrong if it cannot be done."""
    orders = Orders()
    order = orders.next(None)
    formats = tracepoints()
    found = bcc_class()
    if isinstance(found, str):
        return say(failed="bcc", text=found)
    if order is None or REQUIRED not in formats:
        return say(failed="tracefs", text=f"there is no tracepoint {REQUIRED}")
    try:
        bpf = found(text=program(order, formats), cflags=["-w"])
        if order.get("cgroups") is not None:
            set_cgroups(bpf["cgroups"], order["cgroups"])
    except Exception as error:  # BCC raises nothing more telling; its own words are on standard error
        return say(failed="kernel", text=str(error))
    say(ready={"events": list(formats), "missing": [name for name in OPTIONAL if name not in formats]})
    return follow(bpf, orders, reset_reasons(formats))


def main() -> None:
    """``probe.py``, or ``probe.py --check``: is there a BCC for this Python?"""
    try:
        if sys.argv[1:] == ["--check"]:
            found = bcc_class()
            say(failed="bcc", text=found) if isinstance(found, str) else say(ready={})
        else:
            run()
    except (OrderEndedError, BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # the kernel detaches when the descriptors close; standard output may be gone


if __name__ == "__main__":
    main()
