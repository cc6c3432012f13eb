"""The API without TLS: requests carry whichever client certificate the test says was verified."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control.api.app import create_app
from control.api.context import Context
from control.api.throttle import Throttle
from control.api.transport import PEER_KEY
from control.ca.authority import Signer, new_intermediate, new_key, new_root, pem
from control.ca.keys import Keys
from control.kinds.base.mesh import Mesh
from control.registry.tokens import Tokens
from control.watch.hub import Hub
from control.wire.ids import SpiffeId, node_id, operator_id
from tests.support.mesh import Clock, make_registry

TD = "mesh.internal"


def make_keys(now: float) -> Keys:
    root_key, key = new_key(), new_key()
    root = Signer(new_root(root_key, TD, now), root_key)
    intermediate = Signer(new_intermediate(root, key, TD, now), key)
    return Keys(trust_domain=TD, root=root.certificate, intermediate=intermediate, roots=(pem(root.certificate),))


class _Presenting:
    def __init__(self, app: Any, certificate: bytes | None) -> None:
        self._app, self._certificate = app, certificate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[PEER_KEY] = {"certificate": self._certificate, "abort": lambda: None}
        await self._app(scope, receive, send)


class Caller:
    """Whoever presents the certificate; each request is a connection of its own."""

    def __init__(self, app: Any, certificate: bytes | None) -> None:
        self._app = _Presenting(app, certificate)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False, client=("192.0.2.1", 40000))
            async with httpx.AsyncClient(transport=transport, base_url="https://control") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


class Desk:
    """All rooms in memory behind the API."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry, self.store = make_registry(self.clock)
        self.keys = make_keys(self.clock.now)
        mesh = Mesh(trust_domain=TD, cluster="lab", roots=self.keys.roots)
        self.hub = Hub(self.store, self.registry, mesh, self.clock)
        self.context = Context(
            registry=self.registry,
            tokens=Tokens(self.store, self.clock),
            hub=self.hub,
            keys=lambda: self.keys,
            clock=self.clock,
            cluster="lab",
            version="0",
            svid_lifetime=100,
            node_lifetime=1000,
            joins=Throttle(),
        )
        self.app = create_app(self.context)

    def apply(self, *values: Any) -> None:
        self.registry.apply(values)
        self.sync()

    def sync(self) -> None:
        """Let the hub read what was written."""
        asyncio.run(self.hub._refresh())

    def caller(self, identity: SpiffeId | None, lifetime: float = 3600) -> Caller:
        der = None
        if identity is not None:
            chain = self.keys.authority.issue(identity, new_key().public_key(), self.clock.now, lifetime)
            der = x509.load_pem_x509_certificate(chain.encode()).public_bytes(Encoding.DER)
        return Caller(self.app, der)

    def anonymous(self) -> Caller:
        return self.caller(None)

    def operator(self) -> Caller:
        return self.caller(operator_id(TD, "admin"))

    def node(self, name: str = "node-a", lifetime: float = 3600) -> Caller:
        return self.caller(node_id(TD, name), lifetime)

    def workload(self) -> Caller:
        return self.caller(SpiffeId.workload(TD, "shop", "web"))
