"""The watch: a snapshot, then deltas by revision, as one JSON object a line (NDJSON).

``GET WATCH_PATH?revision=N&instance=I&content=D`` answers with an endless stream of ``Batch``. A batch is applied whole
or not at all, and in the order of the stream: a delta may refer to objects of the batch before it, so a reader never
puts a later batch in force first. It may merge what waits.

Resuming: the agent sends the instance and revision of the last batch that it applied, and ``D``, the digest of all that
it holds (``control.codec.content``). Control resumes the stream where its own content had that digest: after a restart
of control, a batch without changes is all that an agent gets whose mesh did not change. Otherwise, and for an agent
that sends no digest, the first batch has ``snapshot=True`` and replaces everything; the agent compares it with what it
holds. The digest is what makes it safe to resume: a store that was restored from a backup counts the same revisions
again.

A batch without changes is a heartbeat and carries the newest revision. A reader ignores fields and parameters that it
does not know: agents and controls of other versions work together.
"""

from __future__ import annotations

from dataclasses import dataclass

WATCH_PATH = "/v1/watch"
HEARTBEAT_SECONDS = 10.0
"""Control sends a batch at least this often; an agent that hears nothing for three of these reconnects."""
MAX_BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One object that is new or changed, or gone."""

    kind: str
    """A key of ``discovery.KINDS``; a reader skips a kind that it does not know."""
    uid: str
    value: bytes | None = None
    """The JSON text of the object, as control encoded it; None: the object is gone. It is a JSON value within the
    batch, and stays encoded until somebody needs the object: whoever passes it on does not read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All changes up to ``revision``; objects that a snapshot does not name are gone."""

    instance: str
    """Identifies what revisions count: the store, and how control derives objects from it. Another database or another
    configuration is another instance; a restart of control is not."""
    revision: int
    snapshot: bool = False
    changes: tuple[Change, ...] = ()
