"""HTTP to control: requests with bounded answers, and the endless answer of the watch."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from control.codec.values import DecodeError, encode, from_json
from control.wire.watch import WATCH_PATH
from nodeagent.client.session import Position

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 15.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_DETAIL_CHARACTERS = 500

T = TypeVar("T")


class ControlError(Exception):
    """Control could not be reached, or refused, or its answer cannot be read. The text is for operators."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        """The HTTP status; None if there was no answer."""

    @property
    def refused(self) -> bool:
        """Whether control understood and said no: asking again the same way is of little use."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in (408, 429)


class Transport:
    """A connection pool to one control with one credential."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._url = url
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=context,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS),
        )

    async def get(self, path: str, answer: type[T]) -> T:
        """GET; ControlError if it fails."""
        return await self._request("GET", path, None, answer)

    async def post(self, path: str, body: Any, answer: type[T]) -> T:
        """POST a wire dataclass as JSON; ControlError if it fails."""
        return await self._request("POST", path, encode(body), answer)

    @asynccontextmanager
    async def watch(self, position: Position | None, content: str = "") -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of the watch, from ``position`` (``content``: the digest of what is held there) or from a snapshot.
        Silence is for the caller to judge."""
        query = {} if position is None else {"revision": str(position.revision), "instance": position.instance}
        if content:
            query["content"] = content
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=None)
        try:
            async with self._client.stream("GET", WATCH_PATH, params=query, timeout=timeout) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await _bounded(response))
                yield response.aiter_bytes()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _request(self, method: str, path: str, body: Any, answer: type[T]) -> T:
        try:
            async with self._client.stream(method, path, json=body) as response:
                content = await _bounded(response)
                if response.status_code not in (200, 201):
                    raise _refusal(response.status_code, content)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        try:
            return from_json(answer, content)
        except DecodeError as error:
            raise ControlError(f"control's answer to {method} {path} cannot be read: {error}") from error

    def _unreachable(self, error: httpx.HTTPError) -> ControlError:
        what = str(error) or type(error).__name__
        return ControlError(f"control at {self._url} cannot be reached: {what}")


async def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            raise ControlError(f"control's answer is longer than {MAX_ANSWER_BYTES} bytes", response.status_code)
    return bytes(content)


def _refusal(status: int, content: bytes) -> ControlError:
    """What an RFC 9457 problem says; or the beginning of whatever was sent instead."""
    try:
        problem = json.loads(content)
        text = str(problem.get("detail") or problem.get("title") or "")
        faults = [item for item in problem.get("errors", ()) if item["message"] not in text]
        text = "; ".join([text, *(f"{item['field']}: {item['message']}" for item in faults)])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = content.decode("utf-8", "replace")
    return ControlError(f"control refused ({status}): {text[:MAX_DETAIL_CHARACTERS] or 'no reason given'}", status)
