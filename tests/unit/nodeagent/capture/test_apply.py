"""The order in which maps are written: an enrolled process never sees half a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from control.wire.address import SocketAddress
from nodeagent.capture import apply
from nodeagent.capture.apply import MapWriter
from nodeagent.capture.plan import Entry, User
from nodeagent.loader.abi import CgroupFlag, ConfigFlag
from nodeagent.loader.errors import MapFullError

ENTRY = Entry(1, 0)
CAPACITY = 3
WEB, SHOP = SocketAddress("240.240.0.1", 80), SocketAddress("fd00::1", 81)


class FakeMap:
    """Remembers what every map was told, in one list."""

    log: ClassVar[list[tuple[str, str]]] = []
    capacity = CAPACITY

    def __init__(self, _: Path) -> None:
        self.held: dict[Any, Any] = {}
        self.now = ConfigFlag(0)

    def entries(self) -> dict[Any, Any]:
        return dict(self.held)

    def put(self, key: Any, value: Any) -> None:
        if key not in self.held and len(self.held) == self.capacity:
            raise MapFullError("full", 7)
        self.held[key] = value
        self.log.append(("put", type(self).__name__))

    def remove(self, key: Any) -> None:
        del self.held[key]
        self.log.append(("remove", type(self).__name__))

    def flags(self) -> ConfigFlag:
        return self.now

    def set(self, flags: ConfigFlag) -> None:
        self.now = flags
        self.log.append(("set", flags.name or "none"))

    def close(self) -> None:
        pass


class Cgroups(FakeMap): ...


class Names(FakeMap):
    def put(self, *key: Any) -> None:  # type: ignore[override]
        super().put(key[:-1], key[-1])

    def remove(self, *key: Any) -> None:  # type: ignore[override]
        super().remove(key)


class Targets(FakeMap):
    def put(self, entries: Any) -> int:  # type: ignore[override]
        written = 0
        for key, value in entries:
            try:
                super().put(key, value)
            except MapFullError:
                break
            written += 1
        return written


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> MapWriter:
    monkeypatch.setattr(FakeMap, "log", [])
    monkeypatch.setattr(apply, "EnrolledCgroups", Cgroups)
    monkeypatch.setattr(apply, "Users", Names)
    monkeypatch.setattr(apply, "Destinations", Targets)
    monkeypatch.setattr(apply, "Settings", FakeMap)
    return MapWriter(Path("pins"))


def test_destinations_are_known_before_anybody_is_enrolled(writer: MapWriter) -> None:
    assert writer.apply({5: ENTRY}, {WEB: ENTRY, SHOP: ENTRY}) == []
    assert FakeMap.log == [("put", "Targets"), ("put", "Targets"), ("put", "Cgroups")]


def test_cgroups_leave_before_destinations_do(writer: MapWriter) -> None:
    writer.apply({5: ENTRY}, {WEB: ENTRY})
    FakeMap.log.clear()
    writer.apply({}, {})
    assert FakeMap.log == [("remove", "Cgroups"), ("remove", "Targets")]


def test_a_user_of_a_cgroup_is_known_before_the_cgroup_sends_for_it(writer: MapWriter) -> None:
    user = User(7, 1001)
    shared, alone = {7: Entry(0, CgroupFlag.BY_USER), user.number: ENTRY}, frozenset({user})
    writer.apply(shared, None, alone)
    assert FakeMap.log == [("put", "Cgroups"), ("put", "Names"), ("put", "Cgroups")]
    assert list(writer.cgroups) == [user.number, 7]
    FakeMap.log.clear()
    writer.apply({}, None, keep=True)
    assert writer.apply(shared, None, alone) == FakeMap.log == []
    writer.apply({}, None)
    assert not writer.cgroups and not writer.users


def test_nothing_is_written_twice(writer: MapWriter) -> None:
    writer.apply({5: ENTRY}, {WEB: ENTRY})
    FakeMap.log.clear()
    assert writer.apply({5: ENTRY}, {WEB: ENTRY}) == writer.apply({5: ENTRY}, None) == []
    assert FakeMap.log == []


def test_a_changed_entry_is_written_again(writer: MapWriter) -> None:
    writer.apply({5: ENTRY}, {WEB: ENTRY})
    FakeMap.log.clear()
    writer.apply({5: Entry(2, 0)}, None)
    assert FakeMap.log == [("put", "Cgroups")]


def test_before_one_destination_is_left_out_the_unknown_is_refused(writer: MapWriter) -> None:
    too_many = {SocketAddress("10.0.0.1", port): ENTRY for port in range(1, CAPACITY + 3)}
    (problem,) = writer.apply({5: ENTRY}, too_many)
    assert problem.startswith("2 mesh destinations do not fit")
    assert FakeMap.log[0] == ("set", "INCOMPLETE")
    assert writer.incomplete


def test_it_stays_a_problem_until_all_fit(writer: MapWriter) -> None:
    too_many = {SocketAddress("10.0.0.1", port): ENTRY for port in range(1, CAPACITY + 2)}
    writer.apply({}, too_many)
    assert writer.apply({}, None) and writer.incomplete
    assert writer.apply({}, {WEB: ENTRY}) == []
    assert not writer.incomplete
    assert FakeMap.log[-1] == ("set", "none")


def test_cgroups_that_do_not_fit_are_told(writer: MapWriter) -> None:
    (problem,) = writer.apply(dict.fromkeys(range(CAPACITY + 2), ENTRY), None)
    assert problem.startswith("2 cgroups cannot be enrolled") and "NOT captured" in problem
    assert len(writer.cgroups) == CAPACITY


def test_only_destinations_that_were_touched_are_looked_at(writer: MapWriter) -> None:
    writer.apply({}, {WEB: ENTRY})
    FakeMap.log.clear()
    wanted = {WEB: Entry(9, 0), SHOP: ENTRY}
    assert writer.apply({}, wanted, touched=[SHOP]) == []
    assert FakeMap.log == [("put", "Targets")] and writer.destinations == {WEB: ENTRY, SHOP: ENTRY}
    writer.apply({}, {SHOP: ENTRY}, touched=[WEB])
    assert writer.destinations == {SHOP: ENTRY}


def test_what_is_kept_for_now_goes_later_though_nobody_touches_it_again(writer: MapWriter) -> None:
    writer.apply({}, {WEB: ENTRY, SHOP: ENTRY})
    writer.apply({}, {SHOP: ENTRY}, touched=[WEB], keep=True)
    assert writer.destinations == {WEB: ENTRY, SHOP: ENTRY}
    writer.apply({}, {SHOP: ENTRY}, touched=[])
    assert writer.destinations == {SHOP: ENTRY}


def test_what_did_not_fit_is_tried_again_though_nobody_touches_it_again(writer: MapWriter) -> None:
    many = {SocketAddress("10.0.0.1", port): ENTRY for port in range(1, CAPACITY + 1)}
    wanted = {**many, WEB: ENTRY}
    assert writer.apply({}, many) == [] and writer.apply({}, wanted, touched=[WEB]) and writer.incomplete
    gone = SocketAddress("10.0.0.1", 1)
    del wanted[gone]
    assert writer.apply({}, wanted, touched=[gone]) == [] and not writer.incomplete
    assert writer.destinations == wanted


def test_a_change_that_fits_is_never_taken_for_one_that_does_not(writer: MapWriter) -> None:
    many = {SocketAddress("10.0.0.1", port): ENTRY for port in range(1, CAPACITY + 1)}
    writer.apply({}, many)
    FakeMap.log.clear()
    wanted = {**dict.fromkeys(list(many)[1:], Entry(9, 0)), WEB: ENTRY}
    assert writer.apply({}, wanted) == []
    assert ("set", "INCOMPLETE") not in FakeMap.log


def test_what_failed_is_tried_again(writer: MapWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, entries: object) -> int:
        raise OSError("the map is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr(Targets, "put", broken)
        writer.apply({}, {WEB: ENTRY}, touched=[WEB])
    writer.apply({}, {WEB: ENTRY}, touched=[])
    assert writer.destinations == {WEB: ENTRY}
