from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from nodeagent.client import journal
from nodeagent.client.join import NodeCredential
from nodeagent.client.statefile import StateDirectory, StateDirectoryError, StoredSvid
from tests.support import pki
from tests.support.objects import delta, gone, policy, snapshot, workload

FORMER = Path(__file__).parents[3] / "contract/golden/discovery-schema-1.json"
SVID = StoredSvid(identity=pki.WEB, chain="chain", key="key")


@pytest.fixture
def credential() -> NodeCredential:
    root = pki.make_root()
    leaf = pki.make_svid(root, "spiffe://mesh.internal/node/node-a")
    return NodeCredential(
        node="node-a", trust_domain="mesh.internal", chain=leaf.chain_pem, key=leaf.key_pem, roots=(root.pem,)
    )


def test_what_is_saved_is_loaded_again(tmp_path: Path, credential: NodeCredential) -> None:
    directory = StateDirectory(tmp_path / "state")
    assert (directory.load_discovery(), directory.load_credential(), directory.load_svids()) == (None, None, [])
    batch = snapshot(workload(), policy())
    directory.save_discovery(batch)
    directory.save_credential(credential)
    directory.save_svid(SVID)
    directory.close()
    again = StateDirectory(tmp_path / "state")
    assert (again.load_discovery(), again.load_credential(), again.load_svids()) == (batch, credential, [SVID])
    again.drop_svid(SVID.identity)
    again.drop_svid(SVID.identity)
    assert again.load_svids() == []
    again.close()


def test_only_the_agent_can_read_it(tmp_path: Path, credential: NodeCredential) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.save_credential(credential)
    directory.save_svid(SVID)
    for path in (tmp_path / "state").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    directory.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"web-0", b"web-9"),
        lambda content: content.replace(b"discovery 2", b"discovery 3"),
        lambda content: b"\x00\xff" * 10,
        lambda content: b"[" * 100_000,
        lambda content: b"[1]",
    ],
)
def test_a_damaged_file_is_left_out_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    directory = StateDirectory(tmp_path)
    directory.save_discovery(snapshot(workload()))
    path = tmp_path / "discovery.log"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with caplog.at_level(logging.ERROR):
        assert directory.load_discovery() is None
    assert "discovery.log" in caplog.text
    directory.save_discovery(snapshot(workload()))
    assert directory.load_discovery() is not None
    directory.close()


def test_the_file_of_a_former_version_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = StateDirectory(tmp_path)
    former = tmp_path / "discovery.json"
    former.write_bytes(FORMER.read_bytes())
    found = directory.load_discovery()
    assert found is not None and found.snapshot and (found.instance, found.revision) == ("history-1", 7)
    assert found == snapshot(workload(labels={"app": "caf\u00e9"}), policy(), revision=7)
    directory.save_discovery(found)
    assert not former.exists() and directory.load_discovery() == found
    (tmp_path / "discovery.log").unlink()
    former.write_bytes(FORMER.read_bytes().replace(b"web-0", b"web-9"))
    assert directory.load_discovery() is None and "checksum" in caplog.text
    directory.close()


def test_changes_are_appended_and_compacted_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMPACTED_AT_BYTES", 2000)
    directory = StateDirectory(tmp_path)
    assert directory.wants_snapshot, "there is no file yet"
    directory.save_discovery(snapshot(workload(), revision=1))
    size = (tmp_path / "discovery.log").stat().st_size
    directory.append_discovery(delta(policy(), revision=2))
    assert size < (tmp_path / "discovery.log").stat().st_size < size + 500 and not directory.wants_snapshot
    assert directory.load_discovery() == snapshot(workload(), policy(), revision=2)
    directory.append_discovery(delta(gone(policy()), revision=3))
    assert directory.load_discovery() == snapshot(workload(), revision=3)
    for number in range(10):
        directory.append_discovery(delta(policy(f"p{number}"), revision=4 + number))
    assert directory.wants_snapshot
    directory.close()


def test_after_a_failed_append_all_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StateDirectory(tmp_path)
    directory.save_discovery(snapshot(workload(), revision=1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space"):
        directory.append_discovery(delta(policy()))
    monkeypatch.undo()
    assert directory.wants_snapshot, "a part of a record may stand at the end"
    directory.close()


def test_a_delta_is_no_state_to_start_from(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    directory.save_discovery(delta(workload()))
    assert directory.load_discovery() is None
    directory.close()


def test_a_crash_while_writing_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = StateDirectory(tmp_path)
    directory.save_discovery(snapshot(revision=1))

    def crash(self: Path, target: Path) -> Path:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(OSError, match="power cut"):
        directory.save_discovery(snapshot(revision=2))
    monkeypatch.undo()
    assert directory.load_discovery() == snapshot(revision=1)
    directory.save_discovery(snapshot(revision=3))
    assert directory.load_discovery() == snapshot(revision=3)
    directory.close()


def test_a_second_agent_is_kept_out(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    with pytest.raises(StateDirectoryError, match="another agent"):
        StateDirectory(tmp_path)
    directory.close()
    StateDirectory(tmp_path).close()


def test_a_path_that_cannot_be_a_directory_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match="cannot be used"):
        StateDirectory(tmp_path / "file")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "state" / "discovery.log.new").symlink_to(tmp_path / "victim")
    directory.save_discovery(snapshot())
    assert (tmp_path / "victim").read_text() == "precious"
    directory.close()


def test_a_credential_that_does_not_fit_is_left_out(tmp_path: Path, credential: NodeCredential) -> None:
    other = pki.make_svid(pki.make_root(), "spiffe://mesh.internal/node/node-b")
    directory = StateDirectory(tmp_path)
    directory.save_credential(
        NodeCredential(
            node="node-a",
            trust_domain="mesh.internal",
            chain=other.chain_pem,
            key=other.key_pem,
            roots=credential.roots,
        )
    )
    assert directory.load_credential() is None
    directory.close()
