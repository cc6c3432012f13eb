"""io_uring, as much as the tests need: one request at a time, by raw system calls (include/uapi/linux/io_uring.h)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

SETUP, ENTER = 425, 426
"""System calls; the same on every machine."""
READV, WRITEV, SENDMSG, RECVMSG = 1, 2, 9, 10
READ, WRITE, SEND, RECV = 22, 23, 26, 27
SPLICE, SEND_ZC = 30, 47
"""IORING_OP_*."""
CQE_MORE, CQE_NOTIFICATION = 2, 8
_GETEVENTS: Final = 1
_PARAMETERS: Final = struct.Struct("=7I12x" + "8I8x" * 2)
_SQE: Final = struct.Struct("=BBHiQQIIQHHi16x")
_CQE: Final = struct.Struct("=QiI")
_ENTRIES: Final = 8
_CQ_RING, _SQES = 0x8000000, 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


class Completion(NamedTuple):
    """``result`` as of the system call that it stands for; negative: an errno."""

    number: int
    result: int
    flags: int


class Ring:
    """A ring; OSError says why this kernel gives none."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(_PARAMETERS.size)
        self._fd = _call(SETUP, _ENTRIES, parameters)
        _, completions, *rest = _PARAMETERS.unpack(parameters.raw)
        sq, cq = rest[5:13], rest[13:21]
        _, self._sq_tail, self._sq_mask, _, _, _, self._sq_array, _ = sq
        self._cq_head, self._cq_tail, self._cq_mask, _, _, self._cqes, _, _ = cq
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._sq = mmap.mmap(self._fd, self._sq_array + 4 * _ENTRIES, shared)
        self._cq = mmap.mmap(self._fd, self._cqes + _CQE.size * completions, shared, offset=_CQ_RING)
        self._sqe = mmap.mmap(self._fd, 64 * _ENTRIES, shared, offset=_SQES)
        self._kept: dict[int, object] = {}
        self._number = 0

    def close(self) -> None:
        """What is not done is cancelled."""
        for each in (self._sq, self._cq, self._sqe):
            each.close()
        os.close(self._fd)

    def submit(
        self, code: int, fd: int, address: object, length: int, *, offset: int = 0, other: int = 0, flags: int = 0
    ) -> int:
        """Begin a request on the memory at ``address`` (a ctypes object, kept until it is done); its number."""
        self._number += 1
        where = ctypes.addressof(address) if isinstance(address, (ctypes.Array, ctypes.Structure)) else address
        tail = _u32(self._sq, self._sq_tail)
        slot = tail & _u32(self._sq, self._sq_mask)
        request = _SQE.pack(code, 0, 0, fd, offset, where or 0, length, flags, self._number, 0, 0, other)
        self._sqe[64 * slot : 64 * slot + _SQE.size] = request
        struct.pack_into("=I", self._sq, self._sq_array + 4 * slot, slot)
        struct.pack_into("=I", self._sq, self._sq_tail, tail + 1)
        self._kept[self._number] = address
        _call(ENTER, self._fd, 1, 0, 0, None, 0)
        return self._number

    def ready(self) -> Completion | None:
        """The next completion, if there is one."""
        head = _u32(self._cq, self._cq_head)
        if head == _u32(self._cq, self._cq_tail):
            return None
        at = self._cqes + _CQE.size * (head & _u32(self._cq, self._cq_mask))
        number, result, flags = _CQE.unpack_from(self._cq, at)
        struct.pack_into("=I", self._cq, self._cq_head, head + 1)
        if not flags & CQE_MORE:
            self._kept.pop(number, None)
        return Completion(number, result, flags)

    def wait(self) -> Completion:
        """The next completion."""
        while (found := self.ready()) is None:
            try:
                _call(ENTER, self._fd, 0, 1, _GETEVENTS, None, 0)
            except InterruptedError:
                continue
        return found

    def do(self, code: int, fd: int, address: object, length: int, *, flags: int = 0) -> int:
        """A request from begin to end; OSError as of the system call that it stands for."""
        number = self.submit(code, fd, address, length, flags=flags)
        done = self.wait()
        assert done.number == number
        if done.result < 0:
            raise OSError(-done.result, errno.errorcode.get(-done.result, ""))
        return done.result


class Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    """``struct msghdr`` with one vector."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("vectors", ctypes.POINTER(Vector)),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


@contextmanager
def ring() -> Iterator[Ring]:
    """For the time of a block."""
    made = Ring()
    try:
        yield made
    finally:
        made.close()


def _u32(memory: mmap.mmap, at: int) -> int:
    found: int = struct.unpack_from("=I", memory, at)[0]
    return found


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"io_uring: {os.strerror(code)}")
    return result
