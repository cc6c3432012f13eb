"""What only a store on disk can get wrong: crashes, damage, another process, and which database error means what."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.store.base import Conflict, UnavailableError
from control.store.sqlite import SqliteStore


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, time.time)


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.db")
    store.put("/a", b"1")
    store.put("/a", b"2")
    store.delete("/a")
    store.put("/b", b"3")
    store.compact(2)
    instance = store.instance
    store.close()
    again = open_store(tmp_path / "s.db")
    assert again.instance == instance
    assert again.revision == 4
    assert [(i.key, i.mod_revision) for i in again.range("/").items] == [("/b", 4)]
    assert [c.revision for c in again.watch("/", 2).poll(0)] == [3, 4]
    again.close()


def test_commits_are_durable_before_they_are_confirmed(tmp_path: Path) -> None:
    """No test here can cut the power; this is the setting that stands for it (2: FULL)."""
    store = open_store(tmp_path / "s.db")
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_every_store_is_another_instance(tmp_path: Path) -> None:
    one, two = open_store(tmp_path / "1.db"), open_store(tmp_path / "2.db")
    assert one.instance != two.instance
    one.close()
    two.close()


WRITER = """
import sys, time
from pathlib import Path
from control.store.base import Put
from control.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]), time.time)
number = 0
while True:
    number += 1
    store.transact([Put(key="/left", value=b"%d" % number), Put(key="/right", value=b"%d" % number)])
    print(number, flush=True)
"""


def test_killed_while_writing_it_keeps_every_commit_that_it_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    confirmed = 0
    while confirmed < 50:
        confirmed = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    confirmed = max([confirmed, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    writer.wait()
    writer.stdout.close()
    store = open_store(path)
    left, right = store.get("/left"), store.get("/right")
    assert left is not None and right is not None
    assert left.value == right.value, "half a transaction survived"
    assert int(left.value) >= confirmed
    assert store.revision == int(left.value) == left.mod_revision
    store.close()


def test_leases_get_their_full_time_again_after_a_restart(tmp_path: Path) -> None:
    now = 1000.0
    store = SqliteStore(tmp_path / "s.db", lambda: now)
    store.put("/a", b"1", lease=store.grant(10).id)
    store.close()
    now = 5000.0
    store = SqliteStore(tmp_path / "s.db", lambda: now)
    assert store.expire() == 0
    now = 5010.0
    assert store.expire() == 1
    assert store.get("/a") is None
    store.close()


def test_the_unique_constraint_decides_between_two_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that read before another one wrote is stopped by the database, not by the read."""
    one, two = open_store(tmp_path / "s.db"), open_store(tmp_path / "s.db")
    one.put("/a", b"1")
    stale = one._latest("/a")
    one.put("/a", b"2")
    reads = iter([stale])
    monkeypatch.setattr(two, "_latest", lambda key: next(reads, None) or SqliteStore._latest(two, key))
    with pytest.raises(Conflict):
        two.put("/a", b"3", expect=1)
    assert two.get("/a").value == b"2"  # type: ignore[union-attr]
    one.close()
    two.close()


def test_only_that_constraint_is_a_conflict(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.db")
    store.put("/a", b"1")
    store._db.execute("CREATE TRIGGER full BEFORE INSERT ON rows BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(UnavailableError, match="disk full"):
        store.put("/a", b"2", expect=1)
    assert store.get("/a").value == b"1"  # type: ignore[union-attr]
    assert store.revision == 1
    store._db.execute("DROP TRIGGER full")
    assert store.put("/a", b"2", expect=1) == 2
    store.close()


def test_damage_and_strangers_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is not a database" * 100)
    with pytest.raises(UnavailableError, match=r"text\.db"):
        open_store(tmp_path / "text.db")
    with pytest.raises(UnavailableError, match=r"none/s\.db"):
        open_store(tmp_path / "none" / "s.db")
    later = sqlite3.connect(tmp_path / "later.db")
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(UnavailableError, match="version 99"):
        open_store(tmp_path / "later.db")
