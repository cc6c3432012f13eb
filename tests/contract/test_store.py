"""What every store must do, held against each of them: etcd's semantics, at the size that control needs."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from control.store.base import (
    MAX_KEY_BYTES,
    MAX_OPERATIONS,
    MAX_VALUE_BYTES,
    Check,
    Compacted,
    Conflict,
    Delete,
    InvalidOperationError,
    KeyValue,
    LeaseNotFoundError,
    Put,
    Store,
)
from control.store.memory import MemoryStore
from control.store.sqlite import SqliteStore


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Make = Callable[[Clock, Path], Store]
MAKERS: dict[str, Make] = {
    "memory": lambda clock, _: MemoryStore(clock),
    "sqlite": lambda clock, directory: SqliteStore(directory / "store.db", clock),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    made = MAKERS[request.param](clock, tmp_path)
    yield made
    made.close()


def values(store: Store, prefix: str = "/", revision: int | None = None) -> dict[str, bytes]:
    return {item.key: item.value for item in store.range(prefix, revision).items}


def test_a_new_store_is_empty_and_names_itself(store: Store) -> None:
    assert store.revision == 0
    assert len(store.instance) >= 32
    assert store.get("/a") is None
    assert store.range("/").items == ()


def test_revisions_count_commits_and_keys_remember_theirs(store: Store) -> None:
    assert store.put("/a", b"1") == 1
    assert store.put("/b", b"2") == 2
    assert store.put("/a", b"3") == 3
    assert store.get("/a") == KeyValue(key="/a", value=b"3", create_revision=1, mod_revision=3, version=2)
    assert store.get("/b") == KeyValue(key="/b", value=b"2", create_revision=2, mod_revision=2, version=1)
    assert store.revision == 3


def test_a_key_made_again_is_another_key(store: Store) -> None:
    store.put("/a", b"1")
    store.delete("/a")
    assert store.get("/a") is None
    store.put("/a", b"2")
    assert store.get("/a") == KeyValue(key="/a", value=b"2", create_revision=3, mod_revision=3, version=1)


def test_range_takes_the_prefix_only_and_is_sorted(store: Store) -> None:
    for key in ("/b/2", "/a", "/b/1", "/b", "/c", "/b~"):
        store.put(key, key.encode())
    assert [item.key for item in store.range("/b/").items] == ["/b/1", "/b/2"]
    assert [item.key for item in store.range("/b").items] == ["/b", "/b/1", "/b/2", "/b~"]


def test_range_as_of_an_older_revision(store: Store) -> None:
    store.put("/a", b"1")
    store.put("/b", b"2")
    store.delete("/a")
    store.put("/a", b"4")
    assert values(store, revision=0) == {}
    assert values(store, revision=2) == {"/a": b"1", "/b": b"2"}
    assert values(store, revision=3) == {"/b": b"2"}
    assert values(store, revision=99) == {"/a": b"4", "/b": b"2"}
    assert store.range("/", 3).revision == 3


def test_compare_and_swap_on_create_update_and_delete(store: Store) -> None:
    made = store.put("/a", b"1", expect=0)
    with pytest.raises(Conflict) as conflict:
        store.put("/a", b"2", expect=0)
    assert (conflict.value.key, conflict.value.expected, conflict.value.found) == ("/a", 0, made)
    changed = store.put("/a", b"2", expect=made)
    with pytest.raises(Conflict):
        store.put("/a", b"3", expect=made)
    with pytest.raises(Conflict):
        store.delete("/a", expect=made)
    assert store.get("/a").value == b"2"  # type: ignore[union-attr]
    store.delete("/a", expect=changed)
    with pytest.raises(Conflict) as gone:
        store.put("/a", b"4", expect=changed)
    assert gone.value.found == 0
    store.put("/a", b"5", expect=0)


def test_a_revision_that_never_was_is_a_conflict(store: Store) -> None:
    store.put("/a", b"1")
    for expect in (7, 10**9):
        with pytest.raises(Conflict):
            store.put("/a", b"2", expect=expect)
        with pytest.raises(Conflict):
            store.put("/new", b"2", expect=expect)


def test_a_transaction_is_one_revision_or_nothing(store: Store) -> None:
    store.put("/a", b"1")
    revision = store.transact(
        [Put(key="/b", value=b"2", expect=0), Delete(key="/a", expect=1), Put(key="/c", value=b"3")]
    )
    assert revision == 2
    assert {item.mod_revision for item in store.range("/").items} == {2}
    with pytest.raises(Conflict):
        store.transact([Put(key="/d", value=b"4"), Delete(key="/c"), Put(key="/b", value=b"5", expect=1)])
    assert values(store) == {"/b": b"2", "/c": b"3"}
    assert store.revision == 2


def test_a_check_guards_without_writing(store: Store) -> None:
    store.put("/guard", b"1")
    store.transact([Check(key="/guard", expect=1), Check(key="/none", expect=0), Put(key="/a", value=b"2")])
    assert store.get("/guard").mod_revision == 1  # type: ignore[union-attr]
    with pytest.raises(Conflict):
        store.transact([Check(key="/guard", expect=2), Put(key="/a", value=b"3")])
    with pytest.raises(Conflict):
        store.transact([Put(key="/a", value=b"3"), Check(key="/none", expect=1)])
    assert values(store)["/a"] == b"2"


def test_what_changes_nothing_makes_no_revision(store: Store) -> None:
    store.put("/a", b"1")
    assert store.delete("/none") == 1
    assert store.transact([]) == 1
    assert store.transact([Check(key="/a", expect=1)]) == 1
    assert store.revision == 1


@pytest.mark.parametrize("key", ["", "a b", "a\n", "é", "x" * (MAX_KEY_BYTES + 1), "\x7f"])
def test_bad_keys_are_refused(store: Store, key: str) -> None:
    with pytest.raises(InvalidOperationError):
        store.put(key, b"1")
    with pytest.raises(InvalidOperationError):
        store.get(key)


def test_bounds_of_a_transaction(store: Store) -> None:
    with pytest.raises(InvalidOperationError, match="twice"):
        store.transact([Put(key="/a", value=b"1"), Delete(key="/a")])
    with pytest.raises(InvalidOperationError, match="at most"):
        store.put("/a", b"x" * (MAX_VALUE_BYTES + 1))
    with pytest.raises(InvalidOperationError, match="at most"):
        store.transact([Delete(key=f"/{n}") for n in range(MAX_OPERATIONS + 1)])
    store.put("/a", b"x" * MAX_VALUE_BYTES)


def test_watch_gives_each_commit_once_whole_and_in_order(store: Store) -> None:
    watch = store.watch("/a/", 0)
    assert watch.poll(0) == ()
    store.transact([Put(key="/a/1", value=b"1"), Put(key="/a/2", value=b"2"), Put(key="/b", value=b"3")])
    store.put("/b", b"4")
    store.delete("/a/1")
    first, second = watch.poll(0)
    assert (first.revision, [e.key for e in first.events]) == (1, ["/a/1", "/a/2"])
    assert first.events[0].current == KeyValue(key="/a/1", value=b"1", create_revision=1, mod_revision=1, version=1)
    assert (second.revision, second.events[0].key, second.events[0].current) == (3, "/a/1", None)
    assert watch.revision == 3
    assert watch.poll(0) == ()


def test_watch_from_a_revision_and_past_foreign_keys(store: Store) -> None:
    for number in range(5):
        store.put(f"/a/{number}", b"")
    assert [c.revision for c in store.watch("/a/", 3).poll(0)] == [4, 5]
    foreign = store.watch("/b/", 2)
    assert list(foreign.poll(0)) == []
    assert foreign.revision == 5


def test_watch_wakes_on_a_commit_of_another_thread(store: Store) -> None:
    watch = store.watch("/", store.revision)
    writer = threading.Timer(0.05, lambda: store.put("/a", b"1"))
    writer.start()
    commits = watch.poll(20)
    writer.join()
    assert [c.revision for c in commits] == [1]


def test_closing_a_watch_or_the_store_wakes_it(store: Store) -> None:
    for close in (lambda w: w.close(), lambda w: store.close()):
        watch = store.watch("/", 0)
        closer = threading.Timer(0.05, close, [watch])
        closer.start()
        assert watch.poll(20) == ()
        closer.join()


def test_compaction_forgets_the_past_and_keeps_the_present(store: Store) -> None:
    store.put("/a", b"1")
    store.put("/a", b"2")
    store.put("/b", b"3")
    store.delete("/b")
    store.put("/a", b"5")
    late = store.watch("/", 0)
    store.compact(4)
    assert values(store) == {"/a": b"5"}
    assert values(store, revision=4) == {"/a": b"2"}
    assert [c.revision for c in store.watch("/", 4).poll(0)] == [5]
    for attempt in (lambda: store.range("/", 3), lambda: store.watch("/", 3), lambda: late.poll(0)):
        with pytest.raises(Compacted) as compacted:
            attempt()
        assert compacted.value.revision == 4
    assert store.put("/b", b"6", expect=0) == 6
    assert store.get("/b").create_revision == 6  # type: ignore[union-attr]
    assert store.put("/a", b"7", expect=5) == 7


def test_compaction_of_everything_leaves_revisions_counting(store: Store) -> None:
    store.put("/a", b"1")
    store.delete("/a")
    store.compact(99)
    assert store.revision == 2
    assert store.put("/a", b"2", expect=0) == 3


def test_a_lease_takes_its_keys_with_it_in_one_commit(store: Store, clock: Clock) -> None:
    lease = store.grant(10)
    store.put("/a", b"1", lease=lease.id)
    store.put("/b", b"2", lease=lease.id)
    store.put("/c", b"3")
    assert store.expire() == 0
    clock.now += 9
    assert store.keep_alive(lease.id).expires == clock.now + 10
    clock.now += 9.5
    assert store.expire() == 0
    clock.now += 0.5
    watch = store.watch("/", store.revision)
    assert store.expire() == 1
    (commit,) = watch.poll(0)
    assert [(e.key, e.current) for e in commit.events] == [("/a", None), ("/b", None)]
    assert values(store) == {"/c": b"3"}
    for ended in (store.keep_alive, store.revoke):
        with pytest.raises(LeaseNotFoundError):
            ended(lease.id)
    with pytest.raises(LeaseNotFoundError):
        store.put("/d", b"4", lease=lease.id)
    assert store.get("/d") is None


def test_a_key_written_anew_leaves_its_lease(store: Store) -> None:
    lease = store.grant(10)
    store.put("/a", b"1", lease=lease.id)
    store.put("/a", b"2")
    store.revoke(lease.id)
    assert values(store) == {"/a": b"2"}


def test_many_writers_one_winner_a_revision(store: Store) -> None:
    """Sixteen threads count to the same number with compare-and-swap: none is lost, none counted twice."""
    store.put("/n", b"0")

    def count() -> None:
        for _ in range(10):
            while True:
                item = store.get("/n")
                assert item is not None
                try:
                    store.put("/n", str(int(item.value) + 1).encode(), expect=item.mod_revision)
                    break
                except Conflict:
                    continue

    threads = [threading.Thread(target=count) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(store) == {"/n": b"160"}
    assert store.get("/n").version == 161  # type: ignore[union-attr]


KEYS = st.sampled_from(["/a", "/b", "/b/1", "/c"])
VALUES = st.binary(max_size=4)


class StoreMachine(RuleBasedStateMachine):
    """Any order of operations, against a dictionary and a list."""

    maker: Make

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.directory = tempfile.TemporaryDirectory()
        self.store = self.maker(self.clock, Path(self.directory.name))
        self.model: dict[str, KeyValue] = {}
        self.past: list[dict[str, bytes]] = [{}]
        self.compacted = 0
        self.followed: dict[str, bytes] = {}
        self.watch = self.store.watch("/", 0)

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    def _commit(self, revision: int, changed: dict[str, bytes | None]) -> None:
        effective = {k: v for k, v in changed.items() if v is not None or k in self.model}
        assert revision == len(self.past) - 1 + bool(effective)
        for key, value in effective.items():
            before = self.model.pop(key, None)
            if value is not None:
                self.model[key] = KeyValue(
                    key=key,
                    value=value,
                    create_revision=before.create_revision if before else revision,
                    mod_revision=revision,
                    version=before.version + 1 if before else 1,
                )
        if effective:
            self.past.append({key: item.value for key, item in self.model.items()})

    def _found(self, key: str) -> int:
        return self.model[key].mod_revision if key in self.model else 0

    @rule(key=KEYS, value=VALUES)
    def put(self, key: str, value: bytes) -> None:
        self._commit(self.store.put(key, value), {key: value})

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self._commit(self.store.delete(key), {key: None})

    @rule(key=KEYS, value=VALUES, expect=st.integers(0, 12))
    def swap(self, key: str, value: bytes, expect: int) -> None:
        if expect == self._found(key):
            self._commit(self.store.put(key, value, expect=expect), {key: value})
        else:
            with pytest.raises(Conflict):
                self.store.put(key, value, expect=expect)

    @rule(writes=st.dictionaries(KEYS, st.none() | VALUES, max_size=4), guard=KEYS, right=st.booleans())
    def transact(self, writes: dict[str, bytes | None], guard: str, right: bool) -> None:
        operations: list[Put | Delete | Check] = [
            Delete(key=k) if v is None else Put(key=k, value=v) for k, v in writes.items() if k != guard
        ]
        operations.append(Check(key=guard, expect=self._found(guard) if right else self._found(guard) + 1))
        if right:
            self._commit(self.store.transact(operations), {k: v for k, v in writes.items() if k != guard})
        else:
            with pytest.raises(Conflict):
                self.store.transact(operations)

    @rule(back=st.integers(0, 3))
    def compact(self, back: int) -> None:
        revision = len(self.past) - 1 - back
        if revision > 0:
            self.store.compact(revision)
            self.compacted = max(self.compacted, revision)

    @rule(revision=st.integers(0, 12))
    def read_the_past(self, revision: int) -> None:
        at = min(revision, len(self.past) - 1)
        if at < self.compacted:
            with pytest.raises(Compacted):
                self.store.range("/", revision)
        else:
            assert values(self.store, revision=revision) == self.past[at]

    @rule()
    def follow(self) -> None:
        try:
            commits = self.watch.poll(0)
        except Compacted:
            self.followed = values(self.store)
            self.watch = self.store.watch("/", self.store.revision)
            return
        for commit in commits:
            for event in commit.events:
                self.followed.pop(event.key, None)
                if event.current is not None:
                    self.followed[event.key] = event.current.value
            assert self.followed == self.past[commit.revision]
        assert self.followed == self.past[-1]

    @precondition(lambda self: isinstance(self.store, SqliteStore))
    @rule()
    def reopen(self) -> None:
        instance = self.store.instance
        self.store.close()
        self.store = self.maker(self.clock, Path(self.directory.name))
        assert self.store.instance == instance
        self.watch = self.store.watch("/", self.store.revision)
        self.followed = values(self.store)

    @invariant()
    def agrees(self) -> None:
        found = self.store.range("/")
        assert {item.key: item for item in found.items} == self.model
        assert found.revision == self.store.revision == len(self.past) - 1


class MemoryMachine(StoreMachine):
    maker = staticmethod(MAKERS["memory"])


class SqliteMachine(StoreMachine):
    maker = staticmethod(MAKERS["sqlite"])


QUICK = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = QUICK
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = QUICK
