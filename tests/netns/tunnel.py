"""A peer of an agent's tunnel port, written against the specification and not against our code: ssl and h2.

It can be right (any identity that it has a certificate for) and it can be wrong in every way that the stories need.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from pathlib import Path
from types import TracebackType

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.netns.lab import Mesh
from tests.netns.spot import Spot
from tests.support.pki import Authority, Leaf

TUNNEL_PORT = 15008


def context(leaf: Leaf | None = None, *, alpn: str = "h2") -> ssl.SSLContext:
    """A TLS client that believes anybody and shows this certificate (or none)."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn:
        made.set_alpn_protocols([alpn])
    if leaf is not None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "leaf.pem"
            path.write_text(leaf.chain_pem + leaf.key_pem)
            made.load_cert_chain(path)
    return made


def tls(
    spot: Spot, address: str, leaf: Leaf | None = None, *, sni: str | None = None, alpn: str = "h2"
) -> ssl.SSLSocket:
    """A TLS connection to the tunnel port. In TLS 1.3 a refused client learns of it with its first read."""
    plain = spot.connect(address, TUNNEL_PORT)
    try:
        return context(leaf, alpn=alpn).wrap_socket(plain, server_hostname=sni)
    except BaseException:
        plain.close()
        raise


def server_certificate(spot: Spot, address: str, sni: str | None) -> x509.Certificate:
    """What the tunnel port shows for this name; it is shown before the client has to prove anything."""
    with tls(spot, address, sni=sni) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def stolen_authority(mesh: Mesh) -> Authority:
    """The mesh's own intermediate CA, as one who stole it: its certificates chain."""
    directory = mesh.control_state / "ca"
    certificate = x509.load_pem_x509_certificate((directory / "intermediate.pem").read_bytes())
    key = serialization.load_pem_private_key((directory / "intermediate.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(certificate, key, (certificate,))


def spiffe_ids(certificate: x509.Certificate) -> list[str]:
    """Its URI SANs."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


class Tunnel:
    """An HTTP/2 connection to the tunnel port, as a peer agent would make it. A context manager."""

    def __init__(self, spot: Spot, address: str, leaf: Leaf, *, sni: str | None = None) -> None:
        self._tls = tls(spot, address, leaf, sni=sni)
        configuration = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        self._h2 = h2.connection.H2Connection(configuration)
        self._h2.initiate_connection()
        self._flush()

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tls.close()

    @property
    def port(self) -> int:
        """From which it is connected."""
        return int(self._tls.getsockname()[1])

    def _flush(self) -> None:
        self._tls.sendall(self._h2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Bytes of any kind, past the HTTP/2 state machine."""
        self._tls.sendall(data)

    def connect(self, authority: str, **headers: str) -> int:
        """CONNECT to the authority; the status."""
        stream = self._h2.get_next_available_stream_id()
        extra = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self._h2.send_headers(stream, [(":method", "CONNECT"), (":authority", authority), *extra])
        self._flush()
        self.stream = stream
        while True:
            for event in self._events():
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    headers_received = dict(event.headers or [])
                    return int(headers_received.get(b":status", headers_received.get(":status", 0)))  # type: ignore[call-overload]
                if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                    raise ConnectionResetError(f"stream reset, code {event.error_code}")
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise ConnectionResetError(f"GOAWAY, code {event.error_code}")

    def send(self, data: bytes) -> None:
        """Application bytes on the stream of the last CONNECT."""
        self._h2.send_data(self.stream, data)
        self._flush()

    def receive(self) -> bytes:
        """The next application bytes; empty at their end."""
        while True:
            for event in self._events():
                if isinstance(event, h2.events.DataReceived):
                    return event.data or b""
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    return b""

    def _events(self) -> list[h2.events.Event]:
        data = self._tls.recv(65536)
        if not data:
            raise ConnectionResetError("the agent closed the tunnel")
        events = self._h2.receive_data(data)
        self._flush()
        return events

    def until_closed(self) -> None:
        """Read until the agent closes; TimeoutError if it does not."""
        try:
            while self._tls.recv(65536):
                pass
        except (ConnectionError, ssl.SSLError):
            return


def refused(connection: socket.socket) -> str:
    """How the agent refused: the first read after the handshake tells. AssertionError if it did not."""
    try:
        while data := connection.recv(65536):
            # SETTINGS may come before the agent has read our certificate; anything after the refusal must not
            assert data[3] in (4, 7, 8), f"the agent went on: {data[:40]!r}"
    except ssl.SSLError as error:
        return error.reason or str(error)
    except ConnectionError as error:
        return type(error).__name__
    return "closed"
