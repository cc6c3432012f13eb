"""A control that says what a test tells it to: HTTPS on loopback, one answer a path, every request kept."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import pki

CONTROL_ID = f"spiffe://{pki.TRUST_DOMAIN}/control"
Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""From the request's JSON to status and body: bytes as they are, anything else as JSON."""


@dataclass
class FakeControl:
    """What it shows and says."""

    leaf: pki.Leaf
    client_roots: tuple[str, ...] = ()
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeControl]:
        """Serve on a free port of 127.0.0.1."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context())
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "pem"
            path.write_text(self.leaf.key_pem + self.leaf.chain_pem)
            context.load_cert_chain(path)
        if self.client_roots:
            context.load_verify_locations(cadata="".join(self.client_roots))
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            target = head.split(" ", 2)[1]
            self.requests.append((target, body))
            status, answer = self.answers.get(target.partition("?")[0], lambda _: (404, {"title": "not here"}))(body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(content)) + content
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
