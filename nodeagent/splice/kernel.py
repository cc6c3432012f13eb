"""The few calls into the kernel that only the splice makes, beside ``nodeagent.loader.sys``."""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import Any

from nodeagent.loader.errors import BpfError, FeatureMissingError
from nodeagent.loader.sys import Libbpf, libbpf

_BPF_TRACE_RAW_TP, _BPF_TRACE_ITER = 23, 28
_SOL_SOCKET, _SO_COOKIE = 1, 57

_CDEF = """
struct bpf_test_run_opts {
    size_t sz; const void *data_in; void *data_out; uint32_t data_size_in, data_size_out;
    const void *ctx_in; void *ctx_out; uint32_t ctx_size_in, ctx_size_out;
    uint32_t retval; int repeat; uint32_t duration, flags, cpu, batch_size;
};
int bpf_prog_test_run_opts(int fd, struct bpf_test_run_opts *opts);
int bpf_prog_attach(int prog, int target, int type, unsigned int flags);
int bpf_raw_tracepoint_open(const char *name, int prog);
struct bpf_link_create_opts {
    size_t sz; uint32_t flags; const uint32_t *iter_info; uint32_t iter_info_len; uint32_t target_btf_id;
};
int bpf_iter_create(int link);
int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
int libbpf_find_vmlinux_btf_id(const char *name, int attach_type);
int getsockopt(int descriptor, int level, int option, void *value, uint32_t *size);
"""


@cache
def splice_calls() -> Libbpf:
    """libbpf with the declarations above."""
    sys = libbpf()
    sys.ffi.cdef(_CDEF)
    return sys


class Runner:
    """Runs a program on a packet (BPF_PROG_TEST_RUN), again and again in the same buffers. One thread."""

    def __init__(self, program_fd: int, packet_size: int) -> None:
        self._sys = splice_calls()
        self._fd = program_fd
        ffi = self._sys.ffi
        self._packet = ffi.new("char[]", packet_size)
        self.packet = ffi.buffer(self._packet)
        self._options: Any = ffi.new("struct bpf_test_run_opts *")
        self._options.sz = ffi.sizeof("struct bpf_test_run_opts")
        self._options.data_in = self._packet
        self._options.data_size_in = packet_size
        self._run = self._sys.lib.bpf_prog_test_run_opts

    def run(self) -> int:
        """What the program returned."""
        result = self._run(self._fd, self._options)
        if result < 0:
            self._sys.check(result, "cannot run the splice's control program")
        return int(self._options.retval)


def attach_to_map(program_fd: int, map_fd: int, attach_type: int) -> None:
    """From now on the program decides for every socket that enters the map."""
    sys = splice_calls()
    sys.check(sys.lib.bpf_prog_attach(program_fd, map_fd, attach_type, 0), "cannot attach to the socket map")


def require_tracepoint(name: str, since: str) -> None:
    """FeatureMissingError if the running kernel lacks it; ``since`` which Linux has it."""
    if not _has_tracepoint(name):
        raise FeatureMissingError(
            f"this kernel has no tracepoint {name}, which tells what was read; Linux has it from {since} on"
        )


def attach_tracing(program_fd: int) -> int:
    """A link on the tracepoint that the program was loaded for; in force as long as it is held."""
    sys = splice_calls()
    return sys.check(sys.lib.bpf_raw_tracepoint_open(sys.ffi.NULL, program_fd), "cannot attach to a tracepoint")


def attach_iterator(program_fd: int, map_fd: int) -> int:
    """A link that has an iterator program walk that map at each ``iterate``."""
    sys = splice_calls()
    which = sys.ffi.new("uint32_t[4]", [map_fd, 0, 0, 0])
    options = sys.ffi.new("struct bpf_link_create_opts *")
    options.sz = sys.ffi.sizeof("struct bpf_link_create_opts")
    options.iter_info, options.iter_info_len = which, sys.ffi.sizeof(which)
    result = sys.lib.bpf_link_create(program_fd, 0, _BPF_TRACE_ITER, options)
    return sys.check(result, "cannot attach an iterator to a map")


def iterate(link_fd: int) -> None:
    """Have the iterator's program see every entry of its map. It writes nothing, so one read is all of them."""
    sys = splice_calls()
    walk = sys.check(sys.lib.bpf_iter_create(link_fd), "cannot begin to walk a map")
    try:
        os.read(walk, 1)
    except OSError as error:
        raise BpfError("cannot walk a map", error.errno or errno.EIO) from error
    finally:
        os.close(walk)


def socket_cookie(descriptor: int) -> int:
    """The kernel's number of a socket, of use once."""
    sys = splice_calls()
    value, size = sys.ffi.new("uint64_t *"), sys.ffi.new("uint32_t *", 8)
    sys.check(sys.libc.getsockopt(descriptor, _SOL_SOCKET, _SO_COOKIE, value, size), "cannot read a socket's cookie")
    return int(value[0])


def load_if_there(program: Any, tracepoint: str) -> bool:
    """Have a program loaded with its object if the kernel has the tracepoint that it is for; whether it has."""
    if not _has_tracepoint(tracepoint):
        return False
    sys = splice_calls()
    sys.check(sys.lib.bpf_program__set_autoload(program, True), "cannot have a program loaded")
    return True


def _has_tracepoint(name: str) -> bool:
    return int(splice_calls().lib.libbpf_find_vmlinux_btf_id(name.encode(), _BPF_TRACE_RAW_TP)) >= 0
