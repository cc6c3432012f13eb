"""SVIDs from control: a key is made here and never leaves the node; control signs the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from control.wire.ids import SpiffeId, SpiffeIdError
from control.wire.signing import SVID_PATH, SvidAnswer, SvidRequest
from nodeagent.client.transport import ControlError, Transport
from nodeagent.identity.keys import SvidError, SvidMaterial, load_svid, new_request


class IssueError(Exception):
    """No SVID came; the text says why."""


class Issuer(Protocol):
    """Whoever signs SVIDs."""

    async def issue(self, identity: str) -> SvidMaterial:
        """A new key and its SVID; IssueError if there is none."""


class ControlIssuer:
    """The mesh's own CA. ``transport`` gives the present way to control."""

    def __init__(self, transport: Callable[[], Awaitable[Transport]]) -> None:
        self._transport = transport

    async def issue(self, identity: str) -> SvidMaterial:
        """See ``Issuer``."""
        try:
            request = new_request(SpiffeId.parse(identity))
            transport = await self._transport()
            answer = await transport.post(SVID_PATH, SvidRequest(identity=identity, csr=request.csr_pem), SvidAnswer)
            svid = load_svid(answer.chain, request.key_pem)
        except (ControlError, SvidError, SpiffeIdError) as error:
            raise IssueError(str(error)) from error
        if str(svid.identity) != identity:
            raise IssueError(f"control answered with an SVID of {svid.identity}")
        return svid
