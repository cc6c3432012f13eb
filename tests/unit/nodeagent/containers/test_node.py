"""All containers of a node: found by id and by labels, as files come, change and go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodeagent.containers import hooks
from nodeagent.containers.facts import StateError
from nodeagent.containers.hooks import Creation
from nodeagent.containers.node import Containers, Places
from tests.unit.nodeagent.containers import made
from tests.unit.nodeagent.containers.made import DOCKER_ID, PODMAN_ID, put

SIBLING = DOCKER_ID[:12] + "f" * 52


class Host:
    """A host with a directory for everything."""

    def __init__(self, place: Path) -> None:
        self.mount, self.runc, self.records = place / "cgroup", place / "runtime/runc", place / "records"
        self.docker, self.podman, self.containerd = place / "docker", place / "podman", place / "containerd"
        runtimes = (f"{place}/runtime/*",)
        places = Places(oci=runtimes, docker=self.docker, podman=self.podman, containerd=self.containerd)
        self.containers = Containers(places, self.records, self.mount)

    def ids(self, **labels: str) -> list[str]:
        self.containers.look()
        return sorted(c.id for c in self.containers.by_labels(labels))

    def record(self, name: str, **labels: str) -> Path:
        cgroup = self.mount / "hooked" / name
        cgroup.mkdir(parents=True)
        hooks.record(self.records, Creation(name, 1, f"/hooked/{name}", cgroup.stat().st_ino, labels))
        return cgroup


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_by_whole_and_by_short_id(host: Host) -> None:
    made.runc(host.runc, host.mount)
    host.containers.look()
    for text in (DOCKER_ID, DOCKER_ID[:12], DOCKER_ID[:20]):
        assert [c.cgroups for c in host.containers.by_id(text)] == [(f"/docker/{DOCKER_ID}",)]
    for text in (DOCKER_ID[:11], DOCKER_ID[1:], PODMAN_ID):
        assert host.containers.by_id(text) == []


def test_a_short_id_that_means_two_is_refused_and_both_are_named(host: Host) -> None:
    for name in (DOCKER_ID, SIBLING):
        made.runc(host.runc, host.mount, name)
    host.containers.look()
    with pytest.raises(StateError, match=f"{DOCKER_ID} and {SIBLING}"):
        host.containers.by_id(DOCKER_ID[:12])
    assert [c.id for c in host.containers.by_id(SIBLING)] == [SIBLING]


def test_labels_of_docker_podman_and_the_runtime(host: Host) -> None:
    made.runc(host.runc, host.mount, made_by="runc")
    made.runc(host.runc, host.mount, PODMAN_ID)
    made.runc(host.runc, host.mount, "plain", app="web")
    made.docker(host.docker)
    made.podman(host.podman)
    assert host.ids(app="web") == sorted([DOCKER_ID, PODMAN_ID, "plain"])
    assert host.ids(app="web", tier="y") == [PODMAN_ID]
    assert host.ids(tier="x", made_by="runc") == [DOCKER_ID]
    assert host.ids(tier="z") == []


def test_containers_come_and_go(host: Host) -> None:
    assert host.ids() == []
    state = made.runc(host.runc, host.mount, "one", app="web")
    assert host.ids(app="web") == ["one"]
    content = json.loads(state.read_text())
    content["config"]["labels"] = ["app=other"]
    put(state, content)
    assert (host.ids(app="web"), host.ids(app="other")) == ([], ["one"])
    state.unlink()
    assert host.ids() == []


def test_podman_is_asked_again_when_its_database_changed(host: Host) -> None:
    made.runc(host.runc, host.mount, PODMAN_ID)
    assert host.ids(app="web") == []
    made.podman(host.podman)
    assert host.ids(app="web") == [PODMAN_ID]


def test_labels_of_containerd_are_read_when_a_container_comes(host: Host) -> None:
    made.runc(host.runc, host.mount, "plain")
    database = made.containerd(host.containerd)
    assert host.ids(app="web") == []
    made.runc(host.runc, host.mount, "solo")
    assert host.ids(app="web", tier="z") == ["solo"]
    database.unlink()
    database.write_bytes(b"")
    database.chmod(0o644)
    assert host.ids(app="web") == ["solo"], "what is known stays known"
    made.runc(host.runc, host.mount, "other")
    host.containers.look()
    assert any("not a bolt database" in problem for problem in host.containers.problems)


def test_what_a_hook_was_told_counts_until_its_cgroup_is_gone(host: Host) -> None:
    cgroup = host.record("young", app="web")
    made.docker(host.docker, "young")
    assert host.ids(app="web", tier="x") == ["young"]
    assert host.containers.by_id("young")[0].cgroups == ("/hooked/young",)
    cgroup.rmdir()
    assert host.ids() == []
    assert list(host.records.iterdir()) == []


def test_a_cgroup_of_the_same_name_is_another(host: Host) -> None:
    cgroup = host.record("young")
    other = cgroup.with_name("other")
    other.mkdir()  # before the first is gone: so that it is another inode
    cgroup.rmdir()
    other.rename(cgroup)
    assert host.ids() == []


def test_both_cgroups_where_hook_and_runtime_name_two(host: Host) -> None:
    host.record("both", app="web")
    made.runc(host.runc, host.mount, "both", tier="x")
    assert host.ids(app="web", tier="x") == ["both"]
    assert host.containers.by_id("both")[0].cgroups == ("/hooked/both", "/docker/both")


def test_what_cannot_be_believed_is_told_and_harms_no_other(host: Host) -> None:
    made.runc(host.runc, host.mount, "good", app="web")
    made.runc(host.runc, host.mount, "bad", app="web").chmod(0o666)
    host.record("odd")
    put(host.records / "odd.json", "{}")
    (host.runc / "..hidden").mkdir()
    assert host.ids(app="web") == ["good"]
    problems = " ".join(host.containers.problems)
    assert "bad/state.json" in problems and "odd.json" in problems and len(host.containers.problems) == 2
