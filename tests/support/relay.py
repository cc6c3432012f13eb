"""Two nodes in one process: real sockets, real TLS, the real relay; only capture is played by a table.

``Mesh.connect(service address)`` is what an enrolled application would get. ``tests.support.stories`` runs stories on
it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from random import Random
from typing import Any

from control.codec.values import to_json
from control.wire.address import SocketAddress
from control.wire.discovery import (
    AuthorizationPolicy,
    MeshSettings,
    Selectors,
    Service,
    ServicePort,
    TrustBundle,
    Workload,
)
from control.wire.watch import Batch, Change
from nodeagent.capture.origdst import CapturedFlow
from nodeagent.flows.balance import Balancer
from nodeagent.flows.reach.ways import Reach
from nodeagent.flows.services import Services
from nodeagent.flows.tracker import Tracker
from nodeagent.http2.windows import WindowBudget
from nodeagent.identity.keys import load_svid
from nodeagent.identity.store import SvidStore
from nodeagent.net.accepting import Listener, listen_for_apps, listen_for_tunnels
from nodeagent.net.poller import Poller
from nodeagent.net.tasks import Tasks
from nodeagent.policy.authorizer import Authorizer
from nodeagent.relay.inbound import Inbound
from nodeagent.relay.outbound import Outbound
from nodeagent.state.view import NodeState
from nodeagent.steps import at_once
from nodeagent.telemetry.flow import FlowRecord
from nodeagent.telemetry.metrics import FlowMetrics
from nodeagent.tunnel.end import TunnelEnd
from tests.support import pki

TRUST_DOMAIN = "mesh.internal"
LOOPBACK = {"v4": "127.0.0.1", "v6": "::1"}


class RecordingLog:
    """Keeps the records; ``wait`` gives them once there are so many."""

    dropped = 0

    def __init__(self) -> None:
        self.records: list[FlowRecord] = []
        self._changed = asyncio.Event()

    def write(self, record: FlowRecord) -> None:
        self.records.append(record)
        self._changed.set()

    def close(self) -> None:
        pass

    async def wait(self, count: int = 1) -> list[FlowRecord]:
        async with asyncio.timeout(10):
            while len(self.records) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.records


class Captured:
    """Plays the kernel's flow table."""

    def __init__(self) -> None:
        self.entries: dict[SocketAddress, CapturedFlow] = {}

    def take(self, source: SocketAddress, _accepted: object, _cookie: int | None = None) -> CapturedFlow | None:
        return self.entries.pop(source, None)


def workload(name: str, node: str, port: int, **more: Any) -> Workload:
    values: dict[str, Any] = {
        "uid": f"shop/{name}@1", "name": name, "namespace": "shop", "node": node,
        "identity": f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/{name}", "addresses": ("127.0.0.1", "::1"), "ports": (port,),
        "selectors": Selectors(cgroup_path=f"/{name}"), "sni": f"{name}.shop.workload.mesh.internal", "labels": {},
        "canonical_service": name, "canonical_revision": "v1", "app": name, "version": "v1", "cluster": "test",
        "service_account": name,
    }  # fmt: skip
    return Workload(**{**values, **more})


def service(name: str, addresses: tuple[str, ...], port: int, target: int, endpoints: tuple[str, ...]) -> Service:
    return Service(
        uid=f"shop/{name}", name=name, namespace="shop", hostname=f"{name}.shop.mesh.internal", addresses=addresses,
        ports=(ServicePort(name="main", port=port, target_port=target),), endpoints=endpoints,
    )  # fmt: skip


def batch(revision: int, *objects: Any, snapshot: bool = False, gone: tuple[tuple[str, str], ...] = ()) -> Batch:
    kinds = {
        Workload: "workload", Service: "service", AuthorizationPolicy: "policy", TrustBundle: "bundle",
        MeshSettings: "mesh",
    }  # fmt: skip
    changes = [Change(kind=kinds[type(o)], uid=o.uid, value=to_json(o)) for o in objects]
    changes += [Change(kind=kind, uid=uid) for kind, uid in gone]
    return Batch(instance="test", revision=revision, snapshot=snapshot, changes=tuple(changes))


class Node:
    """One node's relay."""

    def __init__(self, name: str, authority: pki.Authority) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.authority = authority
        self.state = NodeState()
        self.log = RecordingLog()
        self.certificates = SvidStore()
        self.metrics = FlowMetrics(loop.time)
        self.captured = Captured()
        self.enrolled: dict[int, str] = {}
        self.authorizer = Authorizer(self.state)
        self.tracker = Tracker(self.state, self.authorizer, self.metrics, self.log, time.time)
        self.tasks = Tasks(loop)
        self.services = Services(
            node=name, tasks=self.tasks, poller=Poller(loop), state=self.state,
            authorizer=self.authorizer, tracker=self.tracker, certificates=self.certificates, budget=WindowBudget(),
        )  # fmt: skip
        self.reach = Reach(self.services, Balancer(Random(1)))
        self.outbound = Outbound(self.services, self.captured, self.enrolled, self.reach)
        self.inbound = Inbound(self.services, self.reach)
        self.outbound_port = 0
        self.tunnel_port = 0
        self._servers: list[Listener] = []

    async def start(self, ip: str) -> None:
        outbound = listen_for_apps(self.services.poller, self.outbound.leg, SocketAddress(ip, 0))
        inbound = listen_for_tunnels(
            self.services.poller, self.inbound.threshold, lambda arrival: self.inbound.tunnel(None, arrival),
            SocketAddress(ip, 0),
        )  # fmt: skip
        self._servers = [outbound, inbound]
        self.outbound_port = outbound.sockets[0].getsockname()[1]
        self.tunnel_port = inbound.sockets[0].getsockname()[1]

    def give_svid(self, identity: str) -> None:
        leaf = pki.make_svid(self.authority, identity)
        self.certificates.put(load_svid(leaf.chain_pem, leaf.key_pem))

    def apply(self, update: Batch) -> None:
        """What the worker does with a batch."""
        applied = self.state.apply(update)
        for kind, uid in applied.changed:
            held = self.state.bundle(uid) if kind == "bundle" else None
            if held is not None:
                self.certificates.set_bundle(uid, held.certificates)
                self.refresh()
        at_once(self.tracker.recheck(applied.changed))
        self.outbound.pool.drop({uid for kind, uid in applied.changed if kind == "workload"})

    def refresh(self) -> None:
        """What the worker does after a new SVID or bundle."""
        self.outbound.pool.refresh()
        self.inbound.refresh()

    @property
    def tunnels(self) -> list[TunnelEnd]:
        """Both kinds."""
        return [*self.outbound.pool, *self.inbound.tunnels]

    def dial_socket(self, ip: str, cgroup: int, destination: SocketAddress) -> socket.socket:
        """A captured, connected, non-blocking client socket."""
        client = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        client.bind((ip, 0))
        address = SocketAddress(*client.getsockname()[:2])
        self.captured.entries[address] = CapturedFlow(destination, cgroup, 1, 1, 0)
        client.connect((ip, self.outbound_port))
        client.setblocking(False)
        return client

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        self.tracker.shut_down()
        for tunnel in self.tunnels:
            if tunnel.transport is not None:
                tunnel.transport.abort()
        self.tasks.cancel()
        async with asyncio.timeout(10):
            while self.tunnels or len(self.tasks):
                await asyncio.sleep(0)
        self.services.poller.close()


class Mesh:
    """Nodes ``a`` and ``b``; workload ``client`` on a (cgroup 1), ``near`` on a and ``far`` on b, behind two
    services.
    """

    VIP_NEAR = "240.240.0.1"
    VIP_FAR = "240.240.0.2"
    V6 = {VIP_NEAR: "fd6d:6573:68::1", VIP_FAR: "fd6d:6573:68::2"}

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.root = pki.make_root()
        issuer = pki.make_intermediate(self.root)
        self.a, self.b = Node("a", issuer), Node("b", issuer)

    async def start(self, server_port: int, **far: Any) -> None:
        await self.a.start(self.ip)
        await self.b.start(self.ip)
        self.client = workload("client", "a", 1, tunnel_port=self.a.tunnel_port, addresses=(self.ip,))
        self.near = workload("near", "a", server_port, tunnel_port=self.a.tunnel_port, addresses=(self.ip,))
        self.far = workload(
            "far", "b", server_port, **{"tunnel_port": self.b.tunnel_port, "addresses": (self.ip,), **far}
        )
        self.near_service = service("near", self.vips(self.VIP_NEAR), 80, server_port, (self.near.uid,))
        self.far_service = service("far", self.vips(self.VIP_FAR), 80, server_port, (self.far.uid,))
        self.objects = [
            TrustBundle(uid=TRUST_DOMAIN, certificates=(self.root.pem,)),
            self.client, self.near, self.far, self.near_service, self.far_service,
        ]  # fmt: skip
        self.revision = 0
        self.update(*self.objects, snapshot=True)
        self.a.enrolled[1] = self.client.uid
        for identity in (self.client.identity, self.near.identity):
            self.a.give_svid(identity)
        self.b.give_svid(self.far.identity)

    def update(self, *objects: Any, **options: Any) -> None:
        self.revision += 1
        for node in (self.a, self.b):
            node.apply(batch(self.revision, *objects, **options))

    def connect(self, vip: str, port: int = 80) -> socket.socket:
        """A client of workload ``client`` that asked for ``vip``."""
        ip = self.V6.get(vip, vip) if ":" in self.ip else vip
        return self.a.dial_socket(self.ip, 1, SocketAddress(ip, port))

    def vips(self, vip: str) -> tuple[str, ...]:
        """The service's addresses, of both families."""
        return (vip, self.V6[vip])

    async def stop(self) -> None:
        await self.a.stop()
        await self.b.stop()
