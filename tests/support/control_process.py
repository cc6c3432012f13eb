"""A real ``control run`` on loopback, and the two kinds of clients it has."""

from __future__ import annotations

import contextlib
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

START_SECONDS = 30.0


def make_csr() -> tuple[str, str]:
    """(private key, certificate request), PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode(), request.public_bytes(serialization.Encoding.PEM).decode()


class ControlProcess:
    """Started by ``running_control``."""

    def __init__(self, state: Path, url: str, process: subprocess.Popen[str]) -> None:
        self.state = state
        self.url = url
        self.process = process
        self.credentials = state / "operator"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def tls(self, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
        """Trusts the mesh's root; presents the certificate if there is one."""
        context = ssl.create_default_context(cafile=self.credentials / "ca.pem")
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context

    def client(self, certificate: Path | None = None, key: Path | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.tls(certificate, key), timeout=20, trust_env=False)

    def operator(self) -> httpx.Client:
        return self.client(self.credentials / "cert.pem", self.credentials / "key.pem")

    def anonymous(self) -> httpx.Client:
        return self.client()

    def join(self, node: str, directory: Path) -> httpx.Client:
        """A node's client, after joining with a fresh token."""
        with self.operator() as operator, self.anonymous() as anonymous:
            token = operator.post("/v1/tokens", json={"node": node}).raise_for_status().json()["token"]
            key, csr = make_csr()
            answer = anonymous.post("/v1/join", json={"token": token, "csr": csr}).raise_for_status().json()
        (directory / f"{node}.pem").write_text(answer["chain"])
        (directory / f"{node}.key").write_text(key)
        return self.client(directory / f"{node}.pem", directory / f"{node}.key")


@contextlib.contextmanager
def running_control(state: Path, *flags: str) -> Iterator[ControlProcess]:
    """``control run`` on a free port of 127.0.0.1, stopped with SIGTERM at the end."""
    where = ["--state-dir", str(state), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "control.main", "run", *where, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"https://\S+:\d+", line)
        assert found, f"control did not start: {line}{process.stderr.read()}"
        yield ControlProcess(state, found[0], process)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
