"""The decision and the address arithmetic of ``bpf/include``, run by the kernel, against an oracle in Python."""

from __future__ import annotations

import ipaddress
import os
import platform
import struct
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cffi
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nodeagent.loader.abi import CaptureCount, PortMode
from nodeagent.loader.objects import MeshObject

HERE = Path(__file__).parent
BPF = HERE.parent.parent / "bpf"
ETHERNET = bytes(12) + b"\x08\x00"
PASS, CAPTURE, REFUSE, NOBODY = range(4)
MAPPED = bytes(10) + b"\xff\xff"


class Answer(NamedTuple):
    """What the headers say of some facts and an address."""

    stream: tuple[int, int]
    """(verdict, reason) of a connect()."""
    concerned: bool
    v4: bool
    datagram: tuple[int, int]
    inside: bool
    loopback_like: bytes
    is_loopback: bool


Ask = Callable[[bytes, bytes], Answer]


Run = Callable[[str, bytes], tuple[int, bytes]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """(program, question) -> (its result, the packet after the Ethernet header)."""
    path = tmp_path_factory.mktemp("bpf") / "decide.test.bpf.o"
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", f"-I{BPF}",
         "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu", "-c", HERE / "decide.test.bpf.c", "-o", path],
        check=True,
    )  # fmt: skip
    ffi = cffi.FFI()
    ffi.cdef("""
        struct bpf_test_run_opts {
            size_t sz; const void *data_in; void *data_out; uint32_t data_size_in, data_size_out;
            const void *ctx_in; void *ctx_out; uint32_t ctx_size_in, ctx_size_out;
            uint32_t retval; int repeat; uint32_t duration, flags, cpu, batch_size;
        };
        int bpf_prog_test_run_opts(int fd, struct bpf_test_run_opts *opts);
    """)
    lib = ffi.dlopen("libbpf.so.1")
    mesh = MeshObject(path)
    mesh.load()

    def run(program: str, question: bytes) -> tuple[int, bytes]:
        packet = ffi.new("char[]", ETHERNET + question + bytes(64))
        out = ffi.new("char[]", 256)
        size = ffi.sizeof("struct bpf_test_run_opts")
        opts = ffi.new(
            "struct bpf_test_run_opts *",
            {"sz": size, "data_in": packet, "data_size_in": len(packet), "data_out": out, "data_size_out": 256},
        )
        assert lib.bpf_prog_test_run_opts(mesh.program_fd(program), opts) == 0, os.strerror(ffi.errno)
        return int(opts.retval), bytes(ffi.buffer(out))[len(ETHERNET) :]

    yield run
    mesh.close()


@pytest.fixture(scope="module")
def ask(run: Run) -> Ask:
    """(nine facts, address) -> what follows from them."""

    def asked(facts: bytes, addr: bytes) -> Answer:
        result, told = run("ask", facts.ljust(12, b"\0") + addr)
        assert result == 0
        verdict, reason, concerned, v4, datagram, why, inside, _, like, is_loopback = struct.unpack_from(
            "=8B16sI", told
        )
        return Answer(
            (verdict, reason), bool(concerned), bool(v4), (datagram, why), bool(inside), like, bool(is_loopback)
        )

    return asked


def oracle(
    known: bool, incomplete: bool, enrolled: bool, listener: bool, resolver: bool, confined: bool, outside: bool,
    sealed: bool, served: bool,
) -> tuple[int, CaptureCount]:  # fmt: skip
    """What ought to become of a connect()."""
    if not enrolled and known and sealed:
        return REFUSE, CaptureCount.REFUSED_SEALED
    if not enrolled:
        return PASS, CaptureCount.PASSED_NOT_ENROLLED if known else CaptureCount.PASSED_NOT_MESH
    if known:
        if not listener:
            return REFUSE, CaptureCount.REFUSED_NO_LISTENER
        return (CAPTURE, CaptureCount.CAPTURED) if served else (NOBODY, CaptureCount.REFUSED_NO_AGENT)
    if resolver and served:
        return CAPTURE, CaptureCount.DNS_TCP
    if incomplete:
        return REFUSE, CaptureCount.REFUSED_INCOMPLETE
    return (REFUSE, CaptureCount.EGRESS_REFUSED) if confined and outside else (PASS, CaptureCount.PASSED_NOT_MESH)


def datagram_oracle(known: bool, enrolled: bool, confined: bool, outside: bool) -> tuple[int, int]:
    """What ought to become of a datagram that is no question for the agent."""
    if not (enrolled and confined and outside):
        return PASS, len(CaptureCount)
    return REFUSE, CaptureCount.EGRESS_TO_MESH if known else CaptureCount.EGRESS_REFUSED


@pytest.mark.parametrize(
    "facts", list(product([False, True], repeat=9)), ids=lambda facts: "".join(map(str, map(int, facts)))
)
def test_every_decision(ask: Ask, facts: tuple[bool, ...]) -> None:
    answer = ask(bytes(facts), bytes(16))
    known, _, enrolled, _, _, confined, outside, _, _ = facts
    assert answer.stream == oracle(*facts)
    assert answer.datagram == datagram_oracle(known, enrolled, confined, outside)
    if not answer.concerned:
        assert oracle(*facts[:2], False, *facts[3:]) == oracle(*facts[:2], True, *facts[3:]), (
            "where enrolment is not looked up it must not matter"
        )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4).map(lambda ip: MAPPED + ip)))
@example(bytes(15) + b"\x01")
@example(bytes(16))
@example(MAPPED + bytes([127, 0, 0, 1]))
@example(MAPPED + bytes([127, 0, 0, 2]))
@example(bytes(12) + bytes([127, 0, 0, 1]))
@example(MAPPED + bytes(4))
@example(MAPPED + bytes([0, 0, 0, 1]))
@example(MAPPED + bytes([126, 255, 255, 255]))
@example(MAPPED + bytes([128, 0, 0, 0]))
@example(bytes(15) + b"\x02")
def test_addresses(ask: Ask, packed: bytes) -> None:
    address = ipaddress.IPv6Address(packed)
    answer = ask(bytes(8), packed)
    mapped = address.ipv4_mapped
    plain = mapped or address
    assert answer.v4 == (mapped is not None)
    assert answer.loopback_like == (MAPPED + bytes([127, 0, 0, 1]) if answer.v4 else bytes(15) + b"\x01")
    assert answer.is_loopback == (str(plain) in ("127.0.0.1", "::1"))
    assert answer.inside == (plain.is_loopback or plain.is_unspecified)


def arrival_oracle(mode: int, agent: bool, own: bool, probe: bool, listener: bool) -> tuple[int, CaptureCount | None]:
    """What ought to become of a connection to a workload's port."""
    let_in, steered, refused = range(3)
    if agent or mode == PortMode.DISABLE:
        return let_in, None
    if own or probe:
        return let_in, CaptureCount.INBOUND_OWN if own else CaptureCount.INBOUND_PROBE
    if mode == PortMode.PERMISSIVE:
        return (steered, CaptureCount.INBOUND_STEERED) if listener else (refused, CaptureCount.INBOUND_NO_AGENT)
    return refused, CaptureCount.INBOUND_REFUSED


@pytest.mark.parametrize("mode", [0, *PortMode, 4, 255])
def test_every_arrival(run: Run, mode: int) -> None:
    for facts in product([False, True], repeat=4):
        result, _ = run("ask_arrival", bytes((mode, *facts, 0, 0, 0)))
        verdict, reason = divmod(result, 256)
        wanted, counted = arrival_oracle(mode, *facts)
        assert (verdict, reason) == (wanted, len(CaptureCount) if counted is None else counted), facts
