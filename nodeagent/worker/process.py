"""What a worker asks of the kernel and of the C library for its own process."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Final

LARGEST_KEPT_BUFFER: Final = 4 * 1024 * 1024
KEPT_MEMORY: Final = 16 * 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(0)


def keep_freed_memory() -> None:
    """Have malloc keep some freed memory: buffers of bulk transfers would be mapped and unmapped each time otherwise.

    What is kept is bounded; above it memory goes back to the kernel.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BUFFER)
    libc.mallopt(_M_TRIM_THRESHOLD, KEPT_MEMORY)


def raise_descriptor_limit() -> None:
    """As many descriptors as the host allows: a flow takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
