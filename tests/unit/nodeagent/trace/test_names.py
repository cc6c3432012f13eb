from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.trace.events import from_probe
from nodeagent.trace.names import NoWorkloadError, WorkloadNames, choose, enrolled_cgroups, scan
from tests.unit.nodeagent.trace.documents import said

WORKLOADS = [
    {"namespace": "shop", "name": "web", "cgroups": [2]},
    {"namespace": "shop", "name": "db", "cgroups": [4]},
    {"namespace": "ops", "name": "web", "cgroups": []},
]
PATHS = {1: "/", 2: "/shop", 3: "/shop/web", 4: "/shop/web/db", 5: "/other", 6: "/shopping"}


def names(paths: dict[int, str] = PATHS) -> WorkloadNames:
    found = WorkloadNames(lambda: paths)
    found.refresh(enrolled_cgroups(WORKLOADS))
    return found


def test_the_nearest_enrolled_cgroup_names_the_workload() -> None:
    assert [names().workload(cgroup) for cgroup in PATHS] == [None, "shop/web", "shop/web", "shop/db", None, None]
    assert names().cgroups_of("shop/web") == [2, 3]
    assert names().cgroups_of("shop/db") == [4]


def test_an_enrolled_cgroup_that_is_gone_still_has_its_name() -> None:
    assert names({1: "/"}).workload(4) == "shop/db"
    assert names({1: "/"}).path(4) == "cgroup:4"


def test_a_cgroup_made_meanwhile_is_looked_up_once() -> None:
    paths, looks = dict(PATHS), []

    def look() -> dict[int, str]:
        looks.append(1)
        return paths

    found = WorkloadNames(look)
    found.refresh(enrolled_cgroups(WORKLOADS))
    paths[7] = "/shop/new"
    assert (found.path(7), found.workload(7)) == ("/shop/new", "shop/web")
    before = len(looks)
    assert [found.path(99) for _ in range(5)] == ["cgroup:99"] * 5
    assert len(looks) == before + 1, "an unknown number is not looked for at each event"


def test_the_agents_socket_is_named_after_its_client() -> None:
    event = names().name(from_probe(said(cgroup=5, client_cgroup=4), 15001))
    assert (event.workload, event.cgroup_path) == ("shop/db", "/other")


def test_a_workload_is_chosen_by_name() -> None:
    assert choose("db", WORKLOADS) == choose("shop/db", WORKLOADS) == "shop/db"
    with pytest.raises(NoWorkloadError, match=r"may be ops/web or shop/web: write namespace/name"):
        choose("web", WORKLOADS)
    with pytest.raises(NoWorkloadError, match=r"there are: ops/web, shop/db, shop/web"):
        choose("nobody", WORKLOADS)


def test_scan_reads_ids_and_paths(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert scan(tmp_path) == {
        tmp_path.stat().st_ino: "/", (tmp_path / "a").stat().st_ino: "/a", (tmp_path / "a/b").stat().st_ino: "/a/b",
    }  # fmt: skip
