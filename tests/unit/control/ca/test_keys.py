"""The state directory: made once, kept, private, and damage is said out loud."""

from __future__ import annotations

import shutil
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from control.ca import keys as state
from control.ca.authority import INTERMEDIATE_LIFETIME, ROOT_LIFETIME, fingerprint
from control.wire.ids import SpiffeIdError, control_id, operator_id

NOW = 1_700_000_000.0
TD = "mesh.internal"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_made_once_and_private(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "state"
    made = state.prepare(home, TD, NOW)
    state.write_operator(home, made, operator_id(TD, "admin"), NOW)
    before = contents(home)
    assert {"ca/root.pem", "ca/root.key", "operator/cert.pem", "operator/key.pem", "operator/ca.pem"} <= set(before)
    for path in home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    again = state.prepare(home, TD, NOW + 1)
    state.write_operator(home, again, operator_id(TD, "admin"), NOW + 1)
    assert contents(home) == before
    assert again.fingerprint == made.fingerprint == fingerprint(made.root)


def test_operator_credentials_load_and_name_the_operator(tmp_path: Path) -> None:
    made = state.prepare(tmp_path, TD, NOW)
    directory = state.write_operator(tmp_path, made, operator_id(TD, "admin"), NOW)
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    leaf = x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TD}/operator/admin"]


def test_what_is_about_to_end_is_made_anew(tmp_path: Path) -> None:
    first = state.prepare(tmp_path, TD, NOW)
    state.write_operator(tmp_path, first, operator_id(TD, "admin"), NOW)
    old = (tmp_path / "operator/cert.pem").read_bytes()
    late = NOW + state.OPERATOR_LIFETIME * 0.7
    state.write_operator(tmp_path, state.prepare(tmp_path, TD, late), operator_id(TD, "admin"), late)
    assert (tmp_path / "operator/cert.pem").read_bytes() != old
    later = state.prepare(tmp_path, TD, NOW + INTERMEDIATE_LIFETIME * 0.7)
    assert later.intermediate.certificate != first.intermediate.certificate
    assert later.root == first.root
    with pytest.raises(state.StateError, match="root has expired"):
        state.prepare(tmp_path, TD, NOW + ROOT_LIFETIME + 1)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem"])
def test_damaged_operator_credentials_are_replaced(tmp_path: Path, name: str) -> None:
    made = state.prepare(tmp_path, TD, NOW)
    directory = state.write_operator(tmp_path, made, operator_id(TD, "admin"), NOW)
    (directory / name).write_text("damaged")
    state.write_operator(tmp_path, made, operator_id(TD, "admin"), NOW)
    ssl.create_default_context().load_cert_chain(directory / "cert.pem", directory / "key.pem")


def test_a_crash_while_making_the_ca_is_made_good(tmp_path: Path) -> None:
    """Every prefix of the files that are written, as a crash could leave them, leads to a CA that works."""
    whole = tmp_path / "whole"
    state.prepare(whole, TD, NOW)
    order = ["mesh.json", "ca/root.key", "ca/root.pem", "ca/intermediate.key", "ca/intermediate.pem"]
    for kept in range(len(order)):
        home = tmp_path / f"crash-{kept}"
        (home / "ca").mkdir(parents=True)
        for name in order[:kept]:
            shutil.copy(whole / name, home / name)
        made = state.prepare(home, TD, NOW)
        made.intermediate.certificate.verify_directly_issued_by(made.root)


def test_a_damaged_ca_is_never_replaced(tmp_path: Path) -> None:
    for name in ("root.pem", "root.key", "intermediate.pem"):
        home = tmp_path / name
        state.prepare(home, TD, NOW)
        (home / "ca" / name).write_text("damaged")
        with pytest.raises(state.StateError, match=r"restore"):
            state.prepare(home, TD, NOW)
    home = tmp_path / "mixed"
    state.prepare(home, TD, NOW)
    shutil.copy(tmp_path / "root.pem" / "ca/root.key", home / "ca/root.key")
    with pytest.raises(state.StateError, match="does not belong"):
        state.prepare(home, TD, NOW)


def test_the_trust_domain_is_fixed(tmp_path: Path) -> None:
    state.prepare(tmp_path, TD, NOW)
    with pytest.raises(state.StateError, match=r"mesh\.internal.*other\.example"):
        state.prepare(tmp_path, "other.example", NOW)
    with pytest.raises(SpiffeIdError):
        state.prepare(tmp_path / "x", "UPPER", NOW)
    assert not (tmp_path / "x").exists()


def test_further_roots_are_trusted_while_they_overlap(tmp_path: Path) -> None:
    other = state.prepare(tmp_path / "other", TD, NOW)
    home = tmp_path / "home"
    made = state.prepare(home, TD, NOW)
    extra = home / "ca" / "extra-roots"
    extra.mkdir()
    (extra / "old.pem").write_text(other.bundle + made.bundle)
    assert state.prepare(home, TD, NOW).roots == (*made.roots, *other.roots)
    (extra / "old.pem").write_text("damaged")
    with pytest.raises(state.StateError, match=r"old\.pem"):
        state.prepare(home, TD, NOW)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(state.StateError, match="--state-dir"):
        state.prepare(tmp_path / "file" / "state", TD, NOW)


def test_the_servers_certificate_carries_its_names(tmp_path: Path) -> None:
    made = state.prepare(tmp_path, TD, NOW)
    chain, key, expires = state.write_server(tmp_path, made, control_id(TD), ("localhost", "127.0.0.1"), NOW, 60)
    assert expires == NOW + 60
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
