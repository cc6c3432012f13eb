"""The process's own log: lines of one kind (the text before its values are filled in) of one source, so many a second,
then one with the sum. On a handler, so that it holds for libraries too.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from nodeagent.limits.lines import MAX_SOURCES, WINDOW_SECONDS, Lines

LINES_A_SECOND: Final = 10
SOURCE: Final = "source"
"""``extra={SOURCE: ...}`` of a log call: the peer or workload that caused it, where it is known."""
_MAX_KIND: Final = 200


class RecordLimit(logging.Filter):
    """Of one handler."""

    def __init__(self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._handler = handler
        self._clock = clock
        self._lines = Lines(LINES_A_SECOND, sources=4 * MAX_SOURCES)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        kind = f"{record.name}: {str(record.msg)[:_MAX_KIND]}"
        source = str(getattr(record, SOURCE, ""))
        with self._lock:
            allowed = self._lines.allow(f"{kind} {source}", f"{source} {kind}".lstrip(), self._clock())
            if not allowed and self._timer is None:
                self._timer = threading.Timer(WINDOW_SECONDS, self.tell)
                self._timer.daemon = True
                self._timer.start()
        return allowed

    def tell(self, *, last: bool = False) -> None:
        """Write the sums of what was not written."""
        with self._lock:
            self._timer = None
            sums = self._lines.sums(self._clock(), last=last)
        for found in sums:
            values: dict[str, Any] = {
                "name": "nodeagent.limits", "levelno": logging.WARNING, "levelname": "WARNING",
                "msg": "%d further lines in %.0f s were left out: %s",
                "args": (found.count, WINDOW_SECONDS, ", ".join(found.kinds)),
            }  # fmt: skip
            self._handler.acquire()
            try:
                self._handler.emit(logging.makeLogRecord(values))
            finally:
                self._handler.release()


def bounded_handler() -> logging.Handler:
    """A handler that writes to standard error, within the bound."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RecordLimit(handler))
    return handler
