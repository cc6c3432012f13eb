"""The state directory's certificates and keys: made once, read ever after, never readable by others.

``ca/root.{pem,key}``, ``ca/intermediate.{pem,key}``, ``ca/extra-roots/*.pem`` (further roots that agents shall trust
while roots overlap), ``mesh.json`` (the trust domain, fixed for life), ``operator/{cert,key,ca}.pem``,
``server/{cert,key}.pem``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control.ca.authority import (
    Authority,
    Signer,
    fingerprint,
    key_pem,
    new_intermediate,
    new_key,
    new_root,
    not_after,
    pem,
)
from control.wire.ids import SpiffeId, check_trust_domain

OPERATOR_LIFETIME = 365 * 24 * 3600.0
RENEW_FRACTION = 1 / 3
"""Long-lived certificates are made anew when less than this part of their time is left."""
MAX_EXTRA_ROOTS = 16


class StateError(Exception):
    """The state directory cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What control signs with, and what it tells others to trust."""

    trust_domain: str
    root: x509.Certificate
    intermediate: Signer
    roots: tuple[str, ...]
    """PEM, one each; the signing root first."""

    @property
    def authority(self) -> Authority:
        """Issues leaves."""
        return Authority(self.intermediate, self.trust_domain)

    @property
    def fingerprint(self) -> str:
        """Of the root, for join tokens."""
        return fingerprint(self.root)

    @property
    def bundle(self) -> str:
        """All roots in one PEM text."""
        return "".join(self.roots)


def prepare(state: Path, trust_domain: str, now: float) -> Keys:
    """Read the CA of the state directory; what is missing (a fresh directory: everything) is made."""
    check_trust_domain(trust_domain)
    try:
        private_directory(state)
        private_directory(state / "ca")
        _fix_trust_domain(state / "mesh.json", trust_domain)
        root = _root(state / "ca", trust_domain, now)
        intermediate = _intermediate(state / "ca", root, trust_domain, now)
        roots = (pem(root.certificate), *_extra_roots(state / "ca" / "extra-roots", root.certificate))
    except OSError as error:
        raise StateError(
            f"{error.filename or state}: {error.strerror}; run as the owner of the state directory, "
            "or choose another with --state-dir"
        ) from error
    return Keys(trust_domain=trust_domain, root=root.certificate, intermediate=intermediate, roots=roots)


def write_operator(state: Path, keys: Keys, identity: SpiffeId, now: float) -> Path:
    """Credentials for ``meshctl`` on this host, made anew only when they are about to end. Returns their directory."""
    directory = private_directory(state / "operator")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    if not _usable(certificate, key, keys, now):
        fresh = new_key()
        chain = keys.authority.issue(identity, fresh.public_key(), now, OPERATOR_LIFETIME)
        write_private(key, key_pem(fresh))
        write_private(certificate, chain)
    ca = directory / "ca.pem"
    if not ca.exists() or ca.read_text() != keys.bundle:
        write_private(ca, keys.bundle)
    return directory


def write_server(
    state: Path, keys: Keys, identity: SpiffeId, names: tuple[str, ...], now: float, lifetime: float
) -> tuple[Path, Path, float]:
    """A new certificate for control's own listener: (chain file, key file, when it ends)."""
    directory = private_directory(state / "server")
    fresh = new_key()
    chain = keys.authority.issue(identity, fresh.public_key(), now, lifetime, names)
    write_private(directory / "key.pem", key_pem(fresh))
    write_private(directory / "cert.pem", chain)
    return directory / "cert.pem", directory / "key.pem", not_after(x509.load_pem_x509_certificate(chain.encode()))


def private_directory(path: Path) -> Path:
    """The directory, made with mode 0700 if it is missing; parents are made as usual."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all, durable."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _fix_trust_domain(path: Path, trust_domain: str) -> None:
    if not path.exists():
        write_private(path, json.dumps({"trustDomain": trust_domain}) + "\n")
        return
    try:
        settled = json.loads(path.read_text())["trustDomain"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged; restore the state directory from a backup") from error
    if settled != trust_domain:
        raise StateError(
            f"{path.parent} belongs to the trust domain {settled!r}, not {trust_domain!r}; "
            "a trust domain cannot be renamed: use another --state-dir"
        )


def _root(directory: Path, trust_domain: str, now: float) -> Signer:
    certificate, key = directory / "root.pem", directory / "root.key"
    if not certificate.exists():
        if key.exists():
            # A crash between the two files: nothing was ever signed with it.
            key.unlink()
        fresh = new_key()
        write_private(key, key_pem(fresh))
        write_private(certificate, pem(new_root(fresh, trust_domain, now)))
    signer = _read_signer(certificate, key)
    if not_after(signer.certificate) <= now:
        raise StateError(f"{certificate}: the root has expired; nothing that it vouches for can work any longer")
    return signer


def _intermediate(directory: Path, root: Signer, trust_domain: str, now: float) -> Signer:
    certificate, key = directory / "intermediate.pem", directory / "intermediate.key"
    if certificate.exists() and key.exists():
        signer = _read_signer(certificate, key)
        if _issued(signer.certificate, root.certificate) and not _due_for_renewal(signer.certificate, now):
            return signer
    fresh = new_key()
    made = new_intermediate(root, fresh, trust_domain, now)
    certificate.unlink(missing_ok=True)
    write_private(key, key_pem(fresh))
    write_private(certificate, pem(made))
    return Signer(made, fresh)


def _read_signer(certificate: Path, key: Path) -> Signer:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except ValueError as error:
        raise StateError(f"{certificate} or {key.name} beside it is damaged; restore them from a backup") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
        raise StateError(f"{key} does not belong to {certificate.name}; restore both from a backup")
    return Signer(loaded, private)


def _extra_roots(directory: Path, root: x509.Certificate) -> list[str]:
    """Further roots to be trusted, in the order of their file names."""
    found: list[str] = []
    for path in sorted(directory.glob("*.pem")) if directory.is_dir() else []:
        try:
            certificates = x509.load_pem_x509_certificates(path.read_bytes())
        except ValueError as error:
            raise StateError(f"{path} is not a PEM certificate; correct or remove it") from error
        found += [pem(certificate) for certificate in certificates if certificate != root]
    if len(found) > MAX_EXTRA_ROOTS:
        raise StateError(f"{directory}: {len(found)} roots; at most {MAX_EXTRA_ROOTS} are allowed")
    return found


def _usable(certificate: Path, key: Path, keys: Keys, now: float) -> bool:
    if not certificate.exists() or not key.exists():
        return False
    try:
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (ValueError, IndexError):
        return False
    fits = private.public_key() == leaf.public_key()
    return fits and _issued(leaf, keys.intermediate.certificate) and not _due_for_renewal(leaf, now)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _due_for_renewal(certificate: x509.Certificate, now: float) -> bool:
    begin, end = certificate.not_valid_before_utc.timestamp(), not_after(certificate)
    return end - now < (end - begin) * RENEW_FRACTION
