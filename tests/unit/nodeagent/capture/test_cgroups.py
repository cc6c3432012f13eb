"""Selectors to cgroups, on a directory tree that looks like cgroupfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.wire.discovery import Selectors
from nodeagent.capture import cgroups
from nodeagent.capture.cgroups import CgroupError, CgroupTree, cgroup2_mount, cgroup_id, own_cgroup, own_cgroup_ids
from nodeagent.loader.abi import MAX_DEPTH

HYBRID = """\
sysfs /sys sysfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupTree:
    """A cgroup root in a temporary directory; the agent itself is in ``/agent``."""
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(cgroups, "cgroup2_mount", lambda _: tmp_path)
    monkeypatch.setattr(cgroups, "own_cgroup", lambda _: "/agent/main")
    return CgroupTree(tmp_path)


def make(tree: CgroupTree, *paths: str) -> list[Path]:
    for path in paths:
        (tree.root / path).mkdir(parents=True)
    return [tree.root / path for path in paths]


def path(text: str) -> Selectors:
    return Selectors(cgroup_path=text)


def unit(name: str) -> Selectors:
    return Selectors(systemd_unit=name)


def test_the_mount_is_found_on_hybrid_and_pure_hosts() -> None:
    assert cgroup2_mount(HYBRID) == Path("/sys/fs/cgroup/unified")
    assert cgroup2_mount("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n") == Path("/sys/fs/cgroup")
    assert cgroup2_mount(r"x /mnt/a\040b cgroup2 rw 0 0") == Path("/mnt/a b")
    with pytest.raises(CgroupError, match="mount -t cgroup2"):
        cgroup2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")


def test_the_own_cgroup_is_that_of_version_two() -> None:
    assert own_cgroup("4:memory:/x\n0::/system.slice/nodeagent.service\n") == "/system.slice/nodeagent.service"
    assert own_cgroup("4:memory:/x\n") == "/"


def test_a_path_is_below_the_root(tree: CgroupTree) -> None:
    (web,) = make(tree, "shop/web")
    for text in ("/shop/web", "shop/web", "/shop//web/"):
        assert tree.resolve(path(text)) == [web]
    assert tree.resolve(path("/shop/gone")) == []


@pytest.mark.parametrize("text", ["", "/", "/shop/../../etc", "..", "./x"])
def test_a_path_cannot_leave_the_root_or_be_the_root(tree: CgroupTree, text: str) -> None:
    with pytest.raises(CgroupError, match="below the agent's cgroup root"):
        tree.resolve(path(text))


def test_a_unit_is_found_in_any_slice(tree: CgroupTree) -> None:
    expected = make(tree, "system.slice/web.service", "system.slice/system-shop.slice/web.service", "web.service")
    make(tree, "system.slice/other.service")
    assert tree.resolve(unit("web.service")) == sorted(expected)
    assert tree.resolve(unit("stopped.service")) == []


def test_a_delegated_cgroup_cannot_take_another_units_name(tree: CgroupTree) -> None:
    """Whoever owns a service's or user's subtree may make cgroups of any name in it."""
    (real,) = make(tree, "system.slice/payments.service")
    make(
        tree,
        "system.slice/attacker.service/payments.service",
        "system.slice/attacker.service/x.slice/payments.service",
        "user.slice/user-1000.slice/user@1000.service/app.slice/payments.service",
        "system.slice/docker-abc.scope/system.slice/payments.service",
    )
    assert tree.resolve(unit("payments.service")) == [real]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_unit_has_a_name(tree: CgroupTree, name: str) -> None:
    with pytest.raises(CgroupError, match="not the name"):
        tree.resolve(unit(name))


def test_the_search_has_a_bound(tree: CgroupTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "MAX_SLICES", 3)
    make(tree, "a.slice", "b.slice", "c.slice")
    with pytest.raises(CgroupError, match="more than 3 slices"):
        tree.resolve(unit("web.service"))


def test_the_agent_never_captures_itself(tree: CgroupTree) -> None:
    make(tree, "agent/main", "agent/mainly")
    for text in ("/agent", "/agent/main"):
        with pytest.raises(CgroupError, match="agent itself"):
            tree.resolve(path(text))
    assert tree.resolve(path("/agent/mainly"))


def test_what_the_kernel_side_cannot_see_is_refused(tree: CgroupTree) -> None:
    make(tree, "/".join("d" * MAX_DEPTH))
    assert tree.resolve(path("/".join("d" * (MAX_DEPTH - 1))))
    with pytest.raises(CgroupError, match="enrol one of its ancestors"):
        tree.resolve(path("/".join("d" * MAX_DEPTH)))


def test_no_selector_is_an_error(tree: CgroupTree) -> None:
    with pytest.raises(CgroupError, match="no selector"):
        tree.resolve(Selectors())


def test_a_root_outside_of_cgroupfs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="cgroup v2"):
        CgroupTree(tmp_path)


def test_the_id_is_the_inode(tmp_path: Path) -> None:
    assert cgroup_id(tmp_path) == tmp_path.stat().st_ino
    assert cgroup_id(tmp_path / "gone") is None


def test_a_process_is_captured_by_its_own_cgroup_or_any_above_it(tree: CgroupTree) -> None:
    make(tree, "agent/main/below", "other")
    own = [cgroup_id(path) for path in (tree.root / "agent/main", tree.root / "agent", tree.root)]
    assert own_cgroup_ids() == tuple(own), "the nearest first"
