"""What can go wrong between the agent and the kernel. Every message says what to do."""

from __future__ import annotations

import errno
import os


class LoaderError(Exception):
    """Any failure of this room."""


class LibraryMissingError(LoaderError):
    """libbpf cannot be opened."""


class BpfError(LoaderError):
    """A call into the kernel failed; ``code`` is the errno."""

    def __init__(self, what: str, code: int, hint: str = "") -> None:
        name = errno.errorcode.get(code, str(code))
        super().__init__(f"{what}: {os.strerror(code)} ({name})" + (f"; {hint}" if hint else ""))
        self.code = code


class MapFullError(BpfError):
    """The map has no room for another entry."""


class FeatureMissingError(LoaderError):
    """The kernel lacks something without which nothing can be captured."""


class IncompatiblePinError(LoaderError):
    """A pinned map was made by another version of the agent, with another layout."""


class PinsBusyError(LoaderError):
    """Another process holds the pin directory."""
