"""What the agent keeps on disk so that a restart, or an outage of control, changes nothing: discovery, the node's
credential, SVIDs.

One directory of mode 0700, locked against a second agent; files of mode 0600, each replaced as a whole (written aside,
fsync, rename, fsync of the directory), but for discovery, which grows behind its snapshot (``Journal``). A file that
cannot be read is said so and left out: the agent then asks control again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from control.codec.values import DecodeError, decode, encode, to_json
from control.wire.watch import Batch, Change
from nodeagent.client.join import JoinError, NodeCredential, check_credential
from nodeagent.client.journal import Journal

SCHEMA = 1
"""Version of the files' meaning; a file of another version is left out."""
MAX_FILE_BYTES = 512 * 1024 * 1024
DISCOVERY_FILE = "discovery.log"
"""A ``Journal``."""
FORMER_DISCOVERY_FILE = "discovery.json"
"""Read once, where a former version of the agent left it; the first journal takes its place."""
NODE_FILE = "node.json"
SVID_DIRECTORY = "svids"
LOCK_FILE = "lock"

T = TypeVar("T")
logger = logging.getLogger(__name__)


class StateDirectoryError(Exception):
    """The directory cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSvid:
    """An SVID and its key, PEM."""

    identity: str
    chain: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _FormerChange:
    kind: str
    uid: str
    value: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _FormerBatch:
    """A batch as agents kept it until they had a journal: objects are JSON values."""

    instance: str
    revision: int
    snapshot: bool = False
    changes: tuple[_FormerChange, ...] = ()


class StateDirectory:
    """The directory, locked for this process."""

    def __init__(self, path: Path) -> None:
        """Make, check and lock it; StateDirectoryError if that fails."""
        self._path = path
        self._journal = Journal(path / DISCOVERY_FILE, _replace)
        try:
            (path / SVID_DIRECTORY).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            path.chmod(0o700)
            (path / SVID_DIRECTORY).chmod(0o700)
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateDirectoryError(
                f"state_dir {path} cannot be used: {error.strerror}; it must be a directory of the agent's own"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateDirectoryError(
                f"another agent uses state_dir {path}; stop it, or give this one its own state_dir and instance"
            ) from error

    def _check_owner(self) -> None:
        status = self._path.stat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StateDirectoryError(
                f"state_dir {self._path} belongs to user {status.st_uid}, the agent runs as {os.geteuid()}; "
                "keys are kept there, so it must belong to the agent"
            )

    def close(self) -> None:
        """Give the lock up."""
        os.close(self._lock)

    def load_discovery(self) -> Batch | None:
        """The state that was saved last, as a snapshot; None if there is none that can be used."""
        path = self._path / DISCOVERY_FILE
        try:
            return self._journal.load()
        except FileNotFoundError:
            return self._load_former_discovery()
        except OSError as error:
            logger.error("%s cannot be read and is left out (control will be asked again): %s", path, error)
            return None

    def _load_former_discovery(self) -> Batch | None:
        former = self._load(FORMER_DISCOVERY_FILE, _FormerBatch)
        if former is None or not former.snapshot:
            return None
        changes = (
            Change(kind=item.kind, uid=item.uid, value=to_json(item.value))
            for item in former.changes
            if item.value is not None
        )
        return Batch(instance=former.instance, revision=former.revision, snapshot=True, changes=tuple(changes))

    def save_discovery(self, snapshot: Batch, changes: Iterable[Change] | None = None) -> None:
        """Keep the snapshot (of these changes, if they are given apart). OSError if it cannot be written. May run in a
        thread."""
        self._journal.replace(snapshot, snapshot.changes if changes is None else changes)
        with contextlib.suppress(FileNotFoundError):
            (self._path / FORMER_DISCOVERY_FILE).unlink()

    def append_discovery(self, delta: Batch) -> None:
        """Keep the delta behind what was saved. OSError if it cannot be written. May run in a thread."""
        self._journal.append(delta)

    @property
    def wants_snapshot(self) -> bool:
        """Whether the next change is to be saved by ``save_discovery``."""
        return self._journal.full

    def load_credential(self) -> NodeCredential | None:
        """The node's credential; None if there is none that can be used."""
        credential = self._load(NODE_FILE, NodeCredential)
        if credential is None:
            return None
        try:
            check_credential(credential)
        except JoinError as error:
            logger.error("%s is not used: %s", self._path / NODE_FILE, error)
            return None
        return credential

    def save_credential(self, credential: NodeCredential) -> None:
        """Keep the node's credential. OSError if it cannot be written."""
        self._save(NODE_FILE, credential)

    def load_svids(self) -> list[StoredSvid]:
        """Every SVID that can be read; whether it is still valid is for the caller to see."""
        names = sorted(item.name for item in (self._path / SVID_DIRECTORY).glob("*.json"))
        found = (self._load(f"{SVID_DIRECTORY}/{name}", StoredSvid) for name in names)
        return [svid for svid in found if svid is not None]

    def save_svid(self, svid: StoredSvid) -> None:
        """Keep the SVID in place of the identity's former one. OSError if it cannot be written."""
        self._save(_svid_file(svid.identity), svid)

    def drop_svid(self, identity: str) -> None:
        """The identity has no workload here any more: its key goes."""
        with contextlib.suppress(FileNotFoundError):
            (self._path / _svid_file(identity)).unlink()

    def _load(self, name: str, cls: type[T]) -> T | None:
        path = self._path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES)
            document = json.loads(content)
            if document["schema"] != SCHEMA:
                raise ValueError(f"it is of schema {document['schema']!r}, this agent reads {SCHEMA}")
            value = document["value"]
            if _digest(value) != document["sha256"]:
                raise ValueError("its checksum does not fit: it was damaged or edited")
            return decode(cls, value)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, DecodeError) as error:
            logger.error("%s cannot be read and is left out (control will be asked again): %s", path, error)
            return None

    def _save(self, name: str, value: Any) -> None:
        encoded = encode(value)
        document = {"schema": SCHEMA, "sha256": _digest(encoded), "value": encoded}
        _replace(self._path / name, [json.dumps(document, separators=(",", ":")).encode()])


def _svid_file(identity: str) -> str:
    # an identity has slashes and may be longer than a file name
    return f"{SVID_DIRECTORY}/{hashlib.sha256(identity.encode()).hexdigest()[:40]}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _replace(path: Path, content: Iterable[bytes]) -> int:
    """Write the file so that a reader, or a power cut, sees the old content or the new, never a part; its length."""
    aside = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        length = sum(stream.write(part) for part in content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return length
