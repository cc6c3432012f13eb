"""The watch: a snapshot, then deltas by revision, as one JSON object a line (NDJSON).

``GET WATCH_PATH?revision=N&instance=I`` answers with an endless stream of ``Batch``. A batch is applied whole or not
at all. With the instance and revision of the last batch that was applied, the stream resumes after it; where control
cannot (compacted, another database, another instance), the first batch has ``snapshot=True`` and replaces everything.
A batch without changes is a heartbeat and carries the newest revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WATCH_PATH = "/v1/watch"
HEARTBEAT_SECONDS = 10.0
"""Control sends a batch at least this often; an agent that hears nothing for three of these reconnects."""
MAX_BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One object that is new or changed (``value`` is its JSON form), or gone (``value`` is None)."""

    kind: str
    """A key of ``discovery.KINDS``; a reader skips a kind that it does not know."""
    uid: str
    value: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All changes up to ``revision``; objects that a snapshot does not name are gone."""

    instance: str
    """Identifies the history that revisions count; differs after a restore or on another database."""
    revision: int
    snapshot: bool = False
    changes: tuple[Change, ...] = ()
