"""Whose mistake it was, and in which words of the protocol."""

from __future__ import annotations

import h2.errors

from nodeagent.http2.errors import ErrorCode, Http2Error, LocalError, PeerError


def test_codes_are_those_of_rfc_9113() -> None:
    assert {code.name: code.value for code in ErrorCode} == {code.name: code.value for code in h2.errors.ErrorCodes}


def test_a_peers_mistake_is_not_ours() -> None:
    error = PeerError(ErrorCode.PROTOCOL_ERROR, "why")
    assert (error.code, str(error)) == (ErrorCode.PROTOCOL_ERROR, "why")
    assert isinstance(error, Http2Error) and not isinstance(error, LocalError)
