"""More that the demo shows: containers, a database, and what is kept out and kept in."""

from __future__ import annotations

import re
import socket

from tests.demo.cast import STALL, WEB_PORT, Cast
from tests.demo.checks import WEB_URL, CheckError, expect
from tests.netns.lab import eventually, identity
from tests.netns.resources import ROOT_NAMESPACE, egress_policy, peer_authentication, service_entry
from tests.netns.servers import Server, http_hello

CLIENTS, TRANSACTIONS = 4, 250
OUTSIDE_PORT, NEWS_PORT = 9090, 9091
NEWS = "news.example.com"
STALL_URL = "http://stall.shop.mesh.internal/"


def containers(cast: Cast) -> str:
    """A container of runc on node-a asks one of podman on node-b, and nginx, by name; the client asks the container."""
    kiosk = cast.containers[0]

    def page(host: str) -> str:
        return kiosk.get(host, 80)

    eventually(lambda: page("stall.shop.mesh.internal") == "this is stall", what="the page of the other container")
    expect("front page" in page("web.shop.mesh.internal"), "nginx did not answer the container")
    expect(cast.curl(cast.client, STALL_URL) == "this is stall", "the client did not get the container's page")
    line = eventually(lambda: cast.mesh.b.access(direction="inbound", dst_workload="stall", src_workload="kiosk"))[-1]
    seen = line["src.identity"], line["dst.identity"]
    expect(seen == (identity("kiosk"), identity("stall")), f"node-b's agent saw {seen}")
    shown = kiosk.get(STALL, 80, "/cgi-bin/who").strip("[]").removeprefix("::ffff:")
    expect(shown == kiosk.pod.v4, f"the container sees {shown} as its client, not {kiosk.pod.v4}")
    return f"each has its own identity ({identity('kiosk')}); the server sees {shown}, the container's own address"


def database(cast: Cast) -> str:
    """PostgreSQL on node-b: pgbench on node-a fills it, and runs transactions on four connections."""
    cast.pgbench("--initialize", "--quiet")
    told = cast.pgbench("--client", str(CLIENTS), "--transactions", str(TRANSACTIONS))
    wanted = CLIENTS * TRANSACTIONS
    done = re.search(r"actually processed: (\d+)/(\d+)", told)
    failed = re.search(r"failed transactions: (\d+)", told)
    expect(done is not None and done.groups() == (str(wanted), str(wanted)), f"pgbench said {told!r}")
    expect(failed is not None and failed[1] == "0", f"pgbench said {told!r}")
    lines = eventually(lambda: cast.mesh.b.access(direction="inbound", dst_workload="database"), what="the log")
    expect({line["reason"] for line in lines} == {"ok"}, f"connections ended by {[line['reason'] for line in lines]}")
    return f"pgbench -i, then {wanted} transactions of {wanted}, no error; pg_hba.conf admits node-a's address alone"


def strict(cast: Cast) -> str:
    """PeerAuthentication says STRICT for the whole mesh, and the program outside the mesh asks nginx again."""
    direct = f"http://{cast.mesh.b.v4}:{WEB_PORT}/"

    def refusal() -> str:
        try:
            page = cast.curl(cast.outsider, direct)
        except OSError as error:
            return str(error).partition(" after ")[0]
        raise AssertionError(f"plaintext was served: {page!r}")

    with cast.mesh.applied(peer_authentication("default", "STRICT", namespace=ROOT_NAMESPACE)):
        refused = eventually(refusal, what="plaintext is refused")
        expect("front page" in cast.curl(cast.client, WEB_URL), "the client, in the mesh, was refused too")
    eventually(lambda: "front page" in cast.curl(cast.outsider, direct), what="let in again without the rule")
    return f"outside the mesh: '{refused}'; the client, through the mesh: 200"


def egress(cast: Cast) -> str:
    """EgressPolicy says REGISTRY_ONLY for the client, which wants to send something out of the mesh."""
    address = cast.mesh.b.v4
    with cast.mesh.b.outside.listen(OUTSIDE_PORT):
        cast.client.connect(address, OUTSIDE_PORT).close()

        def blocked() -> str:
            try:
                cast.client.connect(address, OUTSIDE_PORT).close()
            except PermissionError as error:
                return error.strerror or "refused"
            raise AssertionError("it got out")

        with cast.mesh.applied(egress_policy("registry-only", "REGISTRY_ONLY", app="client")):
            told = eventually(blocked, what="the way out is closed")
            expect("front page" in cast.curl(cast.client, WEB_URL), "the mesh itself is closed to it too")
    return (
        f"{address}:{OUTSIDE_PORT}, before: connected; now: '{told}', at once, by the kernel; nginx, by its name: 200"
    )


def abroad(cast: Cast) -> str:
    """REGISTRY_ONLY again, and a ServiceEntry names one host outside the mesh, a web server at a port of node-b."""
    mesh, node = cast.mesh, cast.mesh.b
    ports = [{"number": 80, "name": "http", "protocol": "TCP"}]
    endpoints = [{"address": address, "ports": {"http": NEWS_PORT}} for address in (node.v4, node.v6)]
    entry = service_entry("news", NEWS, port=NEWS_PORT, ports=ports, endpoints=endpoints)
    with (
        Server(node.outside.listen(NEWS_PORT), _news),
        node.outside.listen(OUTSIDE_PORT),
        mesh.applied(entry, egress_policy("registry-only", "REGISTRY_ONLY", app="client")),
    ):
        page = eventually(lambda: cast.curl(cast.client, f"http://{NEWS}/today"), what="the host by its name")
        expect("GET /today" in page, f"{NEWS} answered {page!r}")
        try:
            cast.client.connect(node.v4, OUTSIDE_PORT).close()
        except PermissionError as error:
            refused = error.strerror
        else:
            raise CheckError(f"{node.v4}:{OUTSIDE_PORT} was reached")
        line = eventually(lambda: mesh.a.access(dst_service=NEWS, src_workload="client", reason="ok"), what="the log")[
            -1
        ]
    return (
        f"http://{NEWS}/: 200, and the agent's log names it {line['dst.service']}; "
        f"{node.v4}:{OUTSIDE_PORT}, the same host at a port that no entry names: '{refused}'"
    )


def _news(connection: socket.socket) -> None:
    with connection:
        http_hello(connection)
