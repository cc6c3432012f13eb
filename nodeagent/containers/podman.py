"""Labels that podman keeps of its containers, in its database: ``libpod/bolt_state.db`` below the storage directory, or
from podman 4.8 on ``db.sql`` (SQLite). Asking podman would not do: it holds the container's lock while a hook runs.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from nodeagent.containers.bolt import Bucket, read_bolt
from nodeagent.containers.facts import StateError, check_owner, texts

BOLT = Path("libpod/bolt_state.db")
SQLITE = Path("db.sql")
BUSY_SECONDS = 0.1


def podman_labels(root: Path) -> dict[str, dict[str, str]]:
    """Id -> labels, of all of its containers; none if podman keeps nothing there. StateError if it cannot be read."""
    found: dict[str, dict[str, str]] = {}
    for rows, path in ((_bolt_rows, root / BOLT), (_sqlite_rows, root / SQLITE)):
        try:
            found |= {identifier: _labels(config) for identifier, config in rows(path)}
        except FileNotFoundError:
            continue
        except BlockingIOError as error:
            raise StateError(f"{path}: podman writes to it just now") from error
        except (OSError, sqlite3.Error, StateError) as error:
            raise StateError(f"{path}: {error}") from error
    return found


def databases(root: Path) -> tuple[Path, ...]:
    """Files whose change may mean other containers."""
    return (root / BOLT, root / SQLITE, root / f"{SQLITE}-wal")


def _bolt_rows(path: Path) -> Iterable[tuple[str, bytes]]:
    containers = Bucket.root(read_bolt(path)).bucket(b"ctr")
    rows = ((name, bucket.get(b"config")) for name, bucket in containers.buckets()) if containers is not None else ()
    return [(name.decode(errors="replace"), config) for name, config in rows if config is not None]


def _sqlite_rows(path: Path) -> Iterable[tuple[str, bytes]]:
    check_owner(path, os.stat(path))  # noqa: PTH116 - FileNotFoundError as it is
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_SECONDS) as database:
        rows = database.execute("SELECT ID, JSON FROM ContainerConfig").fetchall()
    database.close()
    return [(str(identifier), str(config).encode()) for identifier, config in rows]


def _labels(config: bytes) -> dict[str, str]:
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return {}
    return texts(document.get("labels")) if isinstance(document, dict) else {}
