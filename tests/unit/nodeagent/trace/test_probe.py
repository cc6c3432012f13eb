from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from nodeagent.trace.probe import (
    ASKED,
    CLIENT,
    SINCE,
    End,
    KernelEvent,
    OrderEndedError,
    Orders,
    document,
    endpoint,
    program,
    reset_reasons,
    set_cgroups,
    tracepoints,
)

RESET_FORMAT = (
    "\tfield:enum sk_rst_reason reason;\toffset:28;\n"
    'print fmt: "state=%s reason=%s", REC->state ? __print_symbolic(REC->state, { 1, "TCP_ESTABLISHED" }) : "UNKNOWN", '
    '__print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, { 1, "NO_SOCKET" })\n'
)


def an_end(ip: str, port: int) -> End:
    packed = socket.inet_pton(socket.AF_INET6, ip if ":" in ip else f"::ffff:{ip}")
    return End((End._fields_[0][1])(*packed), port)


@pytest.mark.parametrize(
    ("ip", "port", "text"),
    [
        ("192.0.2.1", 80, "192.0.2.1:80"), ("127.0.0.1", 0, "127.0.0.1:-"), ("0.0.0.0", 80, "0.0.0.0:80"),
        ("2001:db8::1", 443, "[2001:db8::1]:443"), ("::", 80, "[::]:80"), ("::", 0, None), ("0.0.0.0", 0, None),
    ],
)  # fmt: skip
def test_addresses_are_written_as_people_do(ip: str, port: int, text: str | None) -> None:
    assert endpoint(an_end(ip, port)) == text


def test_the_kernels_event_becomes_a_document() -> None:
    event = KernelEvent(
        time=5, socket=0xAB, cgroup=7, duration=1_500_000_000, sent=10, received=20, local=an_end("::1", 4000),
        remote=an_end("::1", 80), asked=an_end("fd00::1", 80), pid=3, kind=7, flags=ASKED | SINCE | CLIENT,
        old_state=7, state=7, comm=b"curl\xff", error=104,
    )  # fmt: skip
    found = document(event, 100, {})
    assert (found["event"], found["time_ns"], found["socket"], found["side"]) == ("destroy", 105, "ab", "client")
    assert (found["local"], found["remote"], found["asked"]) == ("[::1]:4000", "[::1]:80", "[fd00::1]:80")
    assert (found["bytes_sent"], found["bytes_received"], found["seconds"]) == (10, 20, 1.5)
    assert found["comm"] == "curl\ufffd"
    json.dumps(found)
    older = document(KernelEvent(kind=7, asked=an_end("fd00::1", 80)), 0, {})
    assert (older["seconds"], older["side"], older["asked"], older["pid"]) == (None, None, None, None)


def test_why_a_reset_was_sent_is_said_in_the_kernels_words() -> None:
    reasons = reset_reasons({"tcp:tcp_send_reset": RESET_FORMAT})
    assert reasons == {0: "NOT_SPECIFIED", 1: "NO_SOCKET"}
    assert document(KernelEvent(kind=5, reason=1), 0, reasons)["reason"] == "no_socket"
    assert document(KernelEvent(kind=5, reason=77), 0, reasons)["reason"] == "77"
    assert reset_reasons({}) == {}


def test_the_program_is_made_for_the_order_and_for_this_kernel() -> None:
    order = {"capture_port": 15001, "port": 80, "cgroups": [], "flow_pin": "/sys/fs/bpf/x", "flow_entries": 9}
    text = program(order, {"sock:inet_sock_set_state": "", "tcp:tcp_send_reset": RESET_FORMAT})
    for line in (
        "HAVE_tcp_send_reset 1", "HAVE_RESET_REASON 1", "CAPTURE_PORT 15001", "FILTER_PORT 80", "FILTER_CGROUPS 1",
        'FLOW_PIN "/sys/fs/bpf/x"', "FLOW_ENTRIES 9",
    ):  # fmt: skip
        assert f"#define {line}\n" in text
    bare = program({"capture_port": 15001, "port": None, "cgroups": None, "flow_pin": None, "flow_entries": 0}, {})
    defined = bare[: bare.index("/* SPDX")]
    assert defined == "#define CAPTURE_PORT 15001\n"


def test_tracepoints_of_this_kernel(tmp_path: Path) -> None:
    assert tracepoints((tmp_path,)) == {}
    place = tmp_path / "events/tcp/tcp_send_reset"
    place.mkdir(parents=True)
    (place / "format").write_text(RESET_FORMAT)
    assert tracepoints((tmp_path / "other", tmp_path)) == {"tcp:tcp_send_reset": RESET_FORMAT}


def test_orders_come_in_pieces_and_end() -> None:
    reader, writer = os.pipe()
    try:
        orders = Orders(reader)
        assert orders.next(0) is None
        os.write(writer, b'{"cgroups"')
        assert orders.next(0) is None
        os.write(writer, b': [1]}\n{"cgroups": []}\n')
        assert (orders.next(None), orders.next(None), orders.next(0)) == ({"cgroups": [1]}, {"cgroups": []}, None)
    finally:
        os.close(writer)
    with pytest.raises(OrderEndedError):
        orders.next(None)
    os.close(reader)


def test_the_filter_becomes_what_was_ordered() -> None:
    """A dict plays BCC's table; its keys are ctypes numbers there too, which compare by identity."""

    class Table(dict):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([type("Key", (), {"value": number}) for number in self.keys()])

        def __setitem__(self, key, value):  # type: ignore[no-untyped-def]
            super().__setitem__(key.value, value)

        def __delitem__(self, key):  # type: ignore[no-untyped-def]
            super().__delitem__(key.value)

    table = Table()
    for wanted in ([1, 2], [2, 3], [], [2**40]):
        set_cgroups(table, wanted)
        assert sorted(table.keys()) == wanted
