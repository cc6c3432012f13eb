"""Whose mistake it was: ``PeerError`` ends a connection with GOAWAY, ``LocalError`` is a defect of ours."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """HTTP/2 error codes (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """The base of both; never raised itself."""


class PeerError(Http2Error):
    """The peer broke the protocol; the connection cannot go on. ``code`` goes into our GOAWAY."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class LocalError(Http2Error):
    """We asked for what the protocol does not allow here: a defect of the caller."""
