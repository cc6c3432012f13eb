"""What is used of OpenSSL beneath pyOpenSSL: octets in and out of buffers of our own, and what went wrong.

The library is the one inside ``cryptography``'s wheel. It is newer than the system's, and so are its AES-GCM and its
handshake (docs/decisions/0030). pyOpenSSL makes contexts and connections; its own reads and writes copy every
record twice more, so ``tunnel.tls`` calls the functions themselves. Nothing else does.
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

lib: Final[Any] = Binding().lib
ffi: Final[Any] = Binding().ffi
MAX_ERRORS: Final = 16
"""Entries of the error queue that are read."""


class TlsError(Exception):
    """The peer, or the network, did not keep to TLS, or a certificate was refused. The message says what, in
    OpenSSL's words."""


class TlsClosedError(Exception):
    """The peer ended the TLS connection (close_notify)."""


def handle(connection: SSL.Connection) -> Any:
    """The ``SSL *`` of a connection; it lives as long as the connection."""
    return connection._ssl


def failure(ssl: Any, result: int) -> Exception | None:
    """Why a call gave ``result``; None: more of the peer's octets are needed. The error queue is empty afterwards."""
    kind = lib.SSL_get_error(ssl, result)
    if kind == lib.SSL_ERROR_WANT_READ:
        return None
    if kind == lib.SSL_ERROR_ZERO_RETURN:
        return TlsClosedError("the peer closed the TLS connection")
    return TlsError(_words(ssl))


def _words(ssl: Any) -> str:
    reasons = []
    for _ in range(MAX_ERRORS):
        code = lib.ERR_get_error()
        if not code:
            break
        text = lib.ERR_reason_error_string(code)
        reasons.append(ffi.string(text).decode("ascii", "replace") if text != ffi.NULL else f"error {code:#x}")
    lib.ERR_clear_error()
    said = reasons[0] if reasons else "the connection broke"
    verified = lib.SSL_get_verify_result(ssl)
    if verified != lib.X509_V_OK:
        said += f": {ffi.string(lib.X509_verify_cert_error_string(verified)).decode('ascii', 'replace')}"
    return said
