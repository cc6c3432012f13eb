"""This node's membership of the mesh: its credential, from disk or by joining with a token, renewed at half its life.

The credential opens the connections to control.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nodeagent.client.join import JoinError, NodeCredential, check_credential, join, renew
from nodeagent.client.statefile import StateDirectory
from nodeagent.client.transport import ControlError, Transport
from nodeagent.waits.backoff import Backoff
from nodeagent.waits.renewal import remaining, renewal_wait

RETRY_FIRST_SECONDS = 1.0
RETRY_MAX_SECONDS = 60.0
MAX_SLEEP_SECONDS = 60.0
"""The clock is looked at this often: it may be set."""
TOKEN_POLL_SECONDS = 1.0
"""How often ``token_file`` is looked for while there is nothing to join with."""
LINGER_SECONDS = 30.0
"""How long requests on a former credential may take to end."""
MAX_TOKEN_BYTES = 4096

logger = logging.getLogger(__name__)


class Membership:
    """The node's credential and transport. ``on_change`` is called when either is replaced."""

    def __init__(
        self,
        url: str,
        node: str,
        token: Callable[[], str],
        directory: StateDirectory,
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``token`` returns the join token, or an empty string; it is called again for each attempt. ``clock`` is
        seconds since 1970, ``draw`` a random number from [0, 1).
        """
        self._clock = clock
        self._draw = draw
        self._backoff = Backoff(RETRY_FIRST_SECONDS, RETRY_MAX_SECONDS, draw)
        self._renew_at = 0.0
        self._renewal_wait = 0.0
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
        if self._expired(credential):
            logger.warning("the node's certificate on disk has expired; a join token is needed")
            return
        self._plan(credential, fresh=False)
        self._use(credential)

    async def run(self) -> None:
        """Join if need be, then renew for ever; until cancelled."""
        try:
            while True:
                try:
                    delay = await self._step()
                    self._backoff.reset()
                    self.error = ""
                except (JoinError, ControlError) as error:
                    if str(error) != self.error:
                        what = "renew its certificate" if self.credential else "join the mesh"
                        logger.error("this node cannot %s: %s; retrying", what, error)
                    self.error = str(error)
                    delay = self._backoff.next()
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
        elif not self._until_renewal():
            self._accept(await self._renew(self.credential))
            logger.info("the node's certificate was renewed")
        return min(MAX_SLEEP_SECONDS, self._until_renewal())

    async def _renew(self, credential: NodeCredential) -> NodeCredential:
        """A new certificate for the present one. If that has expired, by this host's clock, and control refuses it, the
        join token is tried.
        """
        try:
            return await renew(await self.transport(), credential)
        except (JoinError, ControlError):
            if not self._expired(credential) or not self._token():
                raise
        return await self._join()

    async def _join(self) -> NodeCredential:
        token = self._token()
        if not token:
            raise JoinError(
                "no certificate is on disk and there is no join token; make one with "
                f"'meshctl token create --node {self._node}' and set 'token' or 'token_file'"
            )
        return await join(self._url, token, self._node)

    def _until_renewal(self) -> float:
        """Seconds; 0: the certificate is due."""
        return remaining(self._renew_at, self._renewal_wait, self._clock())

    def _plan(self, credential: NodeCredential, *, fresh: bool) -> None:
        """Choose when the certificate is renewed; once, when it comes."""
        now = self._clock()
        begin, end = (moment.timestamp() for moment in credential.validity())
        self._renewal_wait = renewal_wait(begin, end, now, self._draw(), fresh=fresh)
        self._renew_at = now + self._renewal_wait

    def _expired(self, credential: NodeCredential) -> bool:
        return credential.validity()[1].timestamp() <= self._clock()

    def _accept(self, credential: NodeCredential) -> None:
        if self._expired(credential) and (self.credential is None or not self._expired(self.credential)):
            logger.error(
                "the node's new certificate has expired already by this host's clock; set it, and control's, by NTP"
            )
        self._plan(credential, fresh=True)
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
