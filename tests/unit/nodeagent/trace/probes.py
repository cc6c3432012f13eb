"""Children that behave like the probe, for tests of what holds it. (tests/kernel/test_trace.py has the real one.)"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def probe(
    path: Path, *says: Any, then: str = "for line in sys.stdin: print(line, end='', file=log, flush=True)"
) -> str:
    """A program to use in place of a Python that has BCC: reads the order, says the documents, then does ``then``. What
    it is ordered is in the file ``<path>.orders``.
    """
    lines: Sequence[str] = [json.dumps(document) for document in says]
    path.write_text(
        f"#!{sys.executable}\nimport os, sys, time\nlog = open({str(path) + '.orders'!r}, 'w')\n"
        "print(sys.stdin.readline(), end='', file=log, flush=True)\n"
        f"for line in {lines!r}: print(line, flush=True)\n{then}\n"
    )
    path.chmod(0o755)
    return str(path)


def orders(path: Path) -> list[Any]:
    """What the probe was told so far."""
    return [json.loads(line) for line in Path(f"{path}.orders").read_text().splitlines()]
