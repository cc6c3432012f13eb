"""Being told by the kernel (inotify) that cgroups or containers come, change or go, before the next look.

It only says that something happened; what, is found by looking. Whatever it misses (a directory made in one that is not
watched yet, a queue that ran over) the next look finds, so nothing here is an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MAX_WATCHES: Final = 8192
"""Directories and files; those beyond are looked at from time to time only."""
MAX_EVENT_BYTES: Final = 65536
_EVENT = struct.Struct("iIII")
_IN_MODIFY: Final = 0x2
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_IGNORED: Final = 0x8000
_WANTED: Final = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE

logger = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Watch:
    """A set of files and directories. ``fileno`` is readable when something happened to one of them."""

    def __init__(self) -> None:
        """OSError if the host has no inotify instance left."""
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), f"inotify: {os.strerror(ctypes.get_errno())}")
        self._numbers: dict[str, int] = {}
        self._paths: dict[int, str] = {}
        self._told = False

    def fileno(self) -> int:
        """For the event loop."""
        return int(self._fd)

    def follow(self, paths: Iterable[Path]) -> None:
        """Watch exactly these from now on; those that do not exist are left out."""
        wanted = {str(path) for path, _ in zip(paths, range(MAX_WATCHES), strict=False)}
        for path in self._numbers.keys() - wanted:
            number = self._numbers.pop(path)
            if self._paths.pop(number, None) is not None:
                _libc.inotify_rm_watch(self._fd, number)
        for path in wanted - self._numbers.keys():
            self._add(path)

    def _add(self, path: str) -> None:
        number = _libc.inotify_add_watch(self._fd, os.fsencode(path), _WANTED)
        if number < 0:
            error = ctypes.get_errno()
            if error == errno.ENOSPC and not self._told:
                self._told = True
                logger.warning("inotify: fs.inotify.max_user_watches is reached; workloads are noticed a little later")
            return
        self._numbers[path], self._paths[number] = number, path

    def drain(self) -> None:
        """Take note of what happened."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, MAX_EVENT_BYTES):
                offset = 0
                while offset < len(data):
                    number, mask, _, size = _EVENT.unpack_from(data, offset)
                    offset += _EVENT.size + size
                    if mask & _IN_IGNORED and (path := self._paths.pop(number, None)) is not None:
                        self._numbers.pop(path, None)  # it is gone; watched anew if it comes back

    def close(self) -> None:
        """Watch nothing."""
        os.close(self._fd)
