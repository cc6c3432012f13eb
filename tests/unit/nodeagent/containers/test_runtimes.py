"""What each runtime's own state says, and what is not believed."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.containers.bolt import Bucket
from nodeagent.containers.docker import docker_labels
from nodeagent.containers.facts import Container, StateError
from nodeagent.containers.oci import read_runtime
from nodeagent.containers.podman import podman_labels
from tests.unit.nodeagent.containers import made
from tests.unit.nodeagent.containers.made import DOCKER_ID, PODMAN_ID, put


def test_runc_tells_cgroup_and_annotations(tmp_path: Path) -> None:
    made.runc(tmp_path / "runc", tmp_path, app="web")
    expected = Container(DOCKER_ID, (f"/docker/{DOCKER_ID}",), {"app": "web"})
    assert read_runtime(tmp_path / "runc" / DOCKER_ID, tmp_path) == expected


def test_a_cgroup_that_is_not_of_version_two_is_none(tmp_path: Path) -> None:
    made.runc(tmp_path / "runc", tmp_path)
    found = read_runtime(tmp_path / "runc" / DOCKER_ID, tmp_path / "elsewhere")
    assert found is not None and found.cgroups == ()


def test_crun_tells_cgroup_and_its_bundle_the_annotations(tmp_path: Path) -> None:
    put(tmp_path / "bundle/config.json", {"ociVersion": "1.0.0", "annotations": {"app": "web", "odd": 1}})
    status = json.loads((made.DATA / "crun-status.json").read_text()) | {"bundle": str(tmp_path / "bundle")}
    put(tmp_path / "crun/one/status", status)
    expected = Container("one", ("/shop/one",), {"app": "web"})
    assert read_runtime(tmp_path / "crun/one", tmp_path) == expected


def test_a_container_that_is_only_begun_is_none_yet(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    assert read_runtime(tmp_path / "begun", tmp_path) is None


def test_docker_tells_labels(tmp_path: Path) -> None:
    made.docker(tmp_path)
    assert docker_labels(tmp_path, DOCKER_ID) == {"app": "web", "tier": "x"}
    assert docker_labels(tmp_path, PODMAN_ID) is None


def test_podman_tells_labels_from_its_bolt_database(tmp_path: Path) -> None:
    made.podman(tmp_path)
    assert podman_labels(tmp_path) == {PODMAN_ID: {"app": "web", "tier": "y"}}
    assert podman_labels(tmp_path / "none") == {}


def test_podman_tells_labels_from_its_sqlite_database(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sql")) as database:
        database.execute("CREATE TABLE ContainerConfig (ID TEXT PRIMARY KEY, Name TEXT, PodID TEXT, JSON TEXT)")
        database.execute("INSERT INTO ContainerConfig VALUES ('c1', 'n', NULL, '{\"labels\": {\"app\": \"web\"}}')")
        database.commit()
    (tmp_path / "db.sql").chmod(0o600)
    assert podman_labels(tmp_path) == {"c1": {"app": "web"}}


def test_a_database_that_is_written_to_is_read_later(tmp_path: Path) -> None:
    with made.podman(tmp_path).open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(StateError, match="writes to it"):
            podman_labels(tmp_path)
    assert podman_labels(tmp_path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    made.runc(tmp_path / "runc", tmp_path).chmod(mode)
    with pytest.raises(StateError, match="only what nobody but root can write"):
        read_runtime(tmp_path / "runc" / DOCKER_ID, tmp_path)
    made.podman(tmp_path).chmod(mode)
    with pytest.raises(StateError, match="only what nobody but root can write"):
        podman_labels(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', '{"cgroup_paths": 3}', '{"config": {"labels": [1]}}'])
def test_odd_state_is_an_error_or_tells_nothing(tmp_path: Path, text: str) -> None:
    put(tmp_path / "odd/state.json", text)
    with contextlib.suppress(StateError):
        found = read_runtime(tmp_path / "odd", tmp_path)
        assert found is not None and (found.cgroups, found.labels) == ((), {})


@given(st.binary(max_size=9000), st.integers(0, 131072), st.integers(0, 131072))
def test_a_damaged_bolt_database_is_an_error_or_other_entries(noise: bytes, at: int, length: int) -> None:
    """Never a crash, never without end."""
    data = bytearray(gzip.decompress((made.DATA / "bolt_state.db.gz").read_bytes()))
    data[at : at + len(noise)] = noise
    with contextlib.suppress(StateError):
        containers = Bucket.root(bytes(data[: max(length, at)])).bucket(b"ctr")
        for _, bucket in containers.buckets() if containers is not None else ():
            bucket.get(b"config")
