"""Control running: store, registry, hub, CA and API joined, the listener's certificate renewed in time, an orderly end.

Part of the composition root: only ``control.main`` imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from control.api.app import create_app
from control.api.context import Context
from control.api.transport import MAX_HEADER_BYTES, PeerProtocol, server_context
from control.ca.keys import Keys, StateError, prepare, write_operator, write_server
from control.config import Config
from control.kinds.base.mesh import Mesh
from control.registry.registry import Registry
from control.registry.tokens import Tokens
from control.store.base import Store, StoreError
from control.store.sqlite import SqliteStore
from control.watch.hub import Hub
from control.wire.address import SocketAddress
from control.wire.ids import control_id, operator_id

OPERATOR_NAME = "admin"
HOUSEKEEPING_SECONDS = 1.0
COMPACT_EVERY_SECONDS = 300.0
KEEP_REVISIONS = 10_000
"""History left by compaction."""
DRAIN_SECONDS = 5
BACKLOG = 1024
MAX_CONNECTIONS = 8192

log = logging.getLogger("control")


class StartError(Exception):
    """Control cannot start; the message says why and what to do."""


def initialise(config: Config) -> tuple[Keys, Path]:
    """The CA and the operator's credentials, made if missing: (keys, directory of the credentials)."""
    now = time.time()
    keys = prepare(config.state_dir, config.trust_domain, now)
    return keys, write_operator(config.state_dir, keys, operator_id(config.trust_domain, OPERATOR_NAME), now)


def listen(address: SocketAddress) -> socket.socket:
    """The listening socket; ``::`` takes IPv4 as well. StartError if the address is taken or not ours."""
    try:
        if address.ip == "::" and not socket.has_dualstack_ipv6():
            address = SocketAddress("0.0.0.0", address.port)
        family = socket.AF_INET6 if address.family == 6 else socket.AF_INET
        return socket.create_server(
            (address.ip, address.port), family=family, backlog=BACKLOG, dualstack_ipv6=address.ip == "::"
        )
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {error.strerror}; choose another with --listen") from error


class Server(uvicorn.Server):
    """uvicorn's server; it ends watches before it waits for connections, and exits with status 0 on a signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        before_shutdown: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_shutdown()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


class Control:
    """The rooms of one control, and its life from start to orderly end."""

    def __init__(self, config: Config, keys: Keys, store: Store) -> None:
        self._config = config
        self._keys = keys
        self._store = store
        registry = Registry(store, time.time, config.domain)
        mesh = Mesh(trust_domain=config.trust_domain, domain=config.domain, cluster=config.cluster, roots=keys.roots)
        self._hub = Hub(store, registry, mesh)
        self._tls = server_context(keys.bundle)
        self._renew_at = 0.0
        self._server: Server | None = None
        self._context = Context(
            registry=registry,
            tokens=Tokens(store, time.time),
            hub=self._hub,
            keys=lambda: self._keys,
            clock=time.time,
            cluster=config.cluster,
            version=importlib.metadata.version("nodemesh"),
            svid_lifetime=config.svid_lifetime,
            node_lifetime=config.node_lifetime,
        )

    async def run(self, sock: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serve until SIGINT or SIGTERM."""
        self._renew_certificate()
        self._server = server = Server(self._uvicorn(), self._hub.close, on_ready)
        async with asyncio.TaskGroup() as group:
            hub = group.create_task(self._hub.run(log.error), name="watch-hub")
            housekeeping = group.create_task(self._housekeep(), name="housekeeping")
            await server.serve([sock])
            housekeeping.cancel()
            await asyncio.wait({hub, housekeeping}, timeout=DRAIN_SECONDS)
            hub.cancel()

    def stop(self) -> None:
        """End ``run`` as a signal does."""
        if self._server is not None:
            self._server.should_exit = True

    def _uvicorn(self) -> uvicorn.Config:
        def tls(_: uvicorn.Config, __: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            return self._tls

        return uvicorn.Config(
            create_app(self._context),
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ssl_context_factory=tls,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            backlog=BACKLOG,
        )

    async def _housekeep(self) -> None:
        """Leases, compaction, certificates: each failure is logged and tried again."""
        next_compaction = time.monotonic() + COMPACT_EVERY_SECONDS
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                await asyncio.to_thread(self._store.expire)
                if time.monotonic() >= next_compaction:
                    next_compaction = time.monotonic() + COMPACT_EVERY_SECONDS
                    await asyncio.to_thread(self._store.compact, max(0, self._store.revision - KEEP_REVISIONS))
                if time.time() >= self._renew_at:
                    self._renew_certificate()
            except (StoreError, StateError, OSError) as error:
                log.error("housekeeping failed: %s; trying again", error)

    def _renew_certificate(self) -> None:
        """A fresh certificate for the listener: connections made from now on see it. The CA's own is renewed as
        well."""
        config, now = self._config, time.time()
        keys = prepare(config.state_dir, config.trust_domain, now)
        # The roots that agents received at the start of this run stay; further ones count from the next start.
        self._keys = dataclasses.replace(keys, roots=self._keys.roots)
        write_operator(config.state_dir, keys, operator_id(config.trust_domain, OPERATOR_NAME), now)
        identity = control_id(config.trust_domain)
        chain, key, expires = write_server(
            config.state_dir, self._keys, identity, config.names, now, config.server_lifetime
        )
        self._tls.load_cert_chain(chain, key)
        self._renew_at = now + (expires - now) / 2


def open_store(config: Config) -> SqliteStore:
    """The database in the state directory; StoreError says why it cannot be used."""
    path = config.state_dir / "control.db"
    store = SqliteStore(path, time.time)
    for file in config.state_dir.glob("control.db*"):
        file.chmod(0o600)
    return store
