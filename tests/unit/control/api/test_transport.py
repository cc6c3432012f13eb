"""Bounds on what a caller may cost before anything is known of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from control.api import transport
from control.api.transport import BodyLimit


def run(limit: int, seconds: float, messages: list[Any], extensions: dict[str, Any] | None = None) -> list[bytes]:
    """What an app behind the limit receives; None never arrives."""
    received: list[bytes] = []

    async def app(_: Any, receive: Any, __: Any) -> None:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            received.append(message["body"])
            if not message["more_body"]:
                return

    async def receive() -> Any:
        message = messages.pop(0)
        if message is None:
            await asyncio.Event().wait()
        return message

    scope = {"type": "http", "extensions": extensions or {}}
    asyncio.run(BodyLimit(app, limit, seconds)(scope, receive, None))  # type: ignore[arg-type]
    return received


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_may_be_as_long_as_the_limit() -> None:
    assert run(4, 60, [part(b"12", True), part(b"34", False)]) == [b"12", b"34"]


def test_one_byte_more_is_too_long_however_it_is_cut() -> None:
    for parts in ([part(b"12345", False)], [part(b"1234", True), part(b"5", True)]):
        with pytest.raises(HTTPException) as error:
            run(4, 60, parts)
        assert error.value.status_code == 413


def test_a_caller_without_a_certificate_may_send_little() -> None:
    sent = b"x" * (transport.MAX_ANONYMOUS_BODY_BYTES + 1)
    with pytest.raises(HTTPException) as error:
        run(len(sent), 60, [part(sent, False)])
    assert error.value.status_code == 413
    known = {transport.PEER_KEY: {"certificate": b"der"}}
    assert run(len(sent), 60, [part(sent, False)], known) == [sent]


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    with pytest.raises(HTTPException) as error:
        run(4, 0.01, [part(b"1", True), None])
    assert error.value.status_code == 408


def test_a_watcher_that_sends_nothing_more_may_stay() -> None:
    """The time is for the body; after it the app may wait for the disconnect as long as it likes."""
    received = run(4, 0.01, [part(b"", False), {"type": "http.disconnect"}])
    assert received == [b""]


def test_tls_is_asked_for_what_it_should_be() -> None:
    import ssl

    from tests.unit.control.api.desk import make_keys

    context = transport.server_context(make_keys(1_700_000_000.0).bundle)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert context.num_tickets == 0 and context.options & ssl.OP_NO_TICKET
