"""This node's own membership: from disk, or by joining with a token; renewed at half life; the way to control that it
gives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nodeagent.client.join import JoinError, NodeCredential, check_credential, join, renew
from nodeagent.client.statefile import StateDirectory
from nodeagent.client.transport import ControlError, Transport

RETRY_FIRST_SECONDS = 1.0
RETRY_MAX_SECONDS = 60.0
RENEW_AT = 0.5
"""Share of its life after which a certificate is renewed, plus up to RENEW_JITTER."""
RENEW_JITTER = 0.1
TOKEN_POLL_SECONDS = 1.0
"""How often ``token_file`` is looked for while there is nothing to join with."""
LINGER_SECONDS = 30.0
"""How long requests on a former credential may take to end."""
MAX_TOKEN_BYTES = 4096

logger = logging.getLogger(__name__)


class Membership:
    """The node's credential and transport. ``on_change`` is called when they are new."""

    def __init__(
        self, url: str, node: str, token: Callable[[], str], directory: StateDirectory, on_change: Callable[[], None]
    ) -> None:
        """``token`` gives the join token, or nothing; it is asked again for each attempt."""
        self._url = url
        self._node = node
        self._token = token
        self._directory = directory
        self._on_change = on_change
        self._joined = asyncio.Event()
        self._transport: Transport | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.credential: NodeCredential | None = None
        self.error = ""
        """Why the last attempt to join or to renew failed; empty if it did not."""

    async def transport(self) -> Transport:
        """The way to control; waits until this node has joined."""
        await self._joined.wait()
        assert self._transport is not None
        return self._transport

    def restore(self) -> None:
        """Take the credential from disk, if one of this node is there."""
        credential = self._directory.load_credential()
        if credential is None:
            return
        if credential.node != self._node:
            raise JoinError(
                f"the state directory belongs to node {credential.node!r}, the configuration says {self._node!r}; "
                "set 'node' back, or give this node an empty state_dir and a join token"
            )
        if credential.validity()[1] <= datetime.now(UTC):
            logger.warning("the node's certificate on disk has expired; a join token is needed")
            return
        self._use(credential)

    async def run(self) -> None:
        """Join if need be, then renew for ever; until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    delay = await self._step()
                    failures = 0
                    self.error = ""
                except (JoinError, ControlError) as error:
                    failures += 1
                    if str(error) != self.error:
                        what = "renew its certificate" if self.credential else "join the mesh"
                        logger.error("this node cannot %s: %s; retrying", what, error)
                    self.error = str(error)
                    delay = min(RETRY_MAX_SECONDS, RETRY_FIRST_SECONDS * 2 ** min(failures - 1, 10))
                    delay *= random.uniform(0.5, 1.0)
                    if self.credential is None and not self._token():
                        delay = TOKEN_POLL_SECONDS
                await asyncio.sleep(delay)
        finally:
            await self._close()

    def trust(self, roots: tuple[str, ...]) -> None:
        """The mesh's roots changed (a rotation): believe these from now on, if they can be used."""
        if self.credential is None or roots == self.credential.roots:
            return
        credential = replace(self.credential, roots=roots)
        try:
            check_credential(credential)
        except JoinError as error:
            logger.error("the new trust bundle is not used towards control: %s", error)
            return
        logger.info("trust bundle changed: %d roots", len(roots))
        self._save(credential)
        self._use(credential)

    async def _step(self) -> float:
        """Do what is due; seconds until the next step."""
        if self.credential is None:
            credential = await self._join()
            self._accept(credential)
            logger.info("joined the mesh %s as node %s", credential.trust_domain, self._node)
        elif (wait := self._renewal_in(self.credential)) > 0:
            return wait
        elif self.credential.validity()[1] <= datetime.now(UTC) and self._token():
            self._accept(await self._join())
        else:
            self._accept(await renew(await self.transport(), self.credential))
            logger.info("the node's certificate was renewed")
        return 0.0

    async def _join(self) -> NodeCredential:
        token = self._token()
        if not token:
            raise JoinError(
                "no certificate is on disk and there is no join token; make one with "
                f"'meshctl token create --node {self._node}' and set 'token' or 'token_file'"
            )
        return await join(self._url, token, self._node)

    def _renewal_in(self, credential: NodeCredential) -> float:
        begin, end = credential.validity()
        share = RENEW_AT + RENEW_JITTER * (hash(credential.chain) % 1000) / 1000
        return (begin - datetime.now(UTC)).total_seconds() + (end - begin).total_seconds() * share

    def _accept(self, credential: NodeCredential) -> None:
        self._save(credential)
        self._use(credential)

    def _save(self, credential: NodeCredential) -> None:
        try:
            self._directory.save_credential(credential)
        except OSError as error:
            logger.error("the node's certificate cannot be written to disk: %s; a restart would need a token", error)

    def _use(self, credential: NodeCredential) -> None:
        former, self._transport = self._transport, credential.transport(self._url)
        self.credential = credential
        self._joined.set()
        if former is not None:
            task = asyncio.get_running_loop().create_task(_close_later(former), name="close-former-transport")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._on_change()

    async def _close(self) -> None:
        for task in list(self._closing):
            task.cancel()
        if self._transport is not None:
            await self._transport.aclose()


async def _close_later(transport: Transport) -> None:
    try:
        await asyncio.sleep(LINGER_SECONDS)
    finally:
        await transport.aclose()


def read_token(token: str, token_file: Path | None) -> str:
    """The join token: as configured, or what stands in the file now; empty if neither is there."""
    if token or token_file is None:
        return token
    with contextlib.suppress(OSError, UnicodeDecodeError), token_file.open("rb") as stream:
        return stream.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    return ""
