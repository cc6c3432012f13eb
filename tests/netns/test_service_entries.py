"""Hosts outside the mesh that its registry names: found by name, reached through the agent, their bytes untouched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns import zone
from tests.netns.conftest import MakeShop
from tests.netns.lab import BIN, Mesh, eventually
from tests.netns.reading import debug
from tests.netns.resources import egress_policy, peer_authentication, service_entry, workload
from tests.netns.servers import Server, echo, greeter, roundtrip
from tests.netns.shop import Family, Shop
from tests.netns.spot import Spot
from tests.netns.test_dns import ask, run
from tests.netns.test_egress import leave, mode_of
from tests.netns.town import Town
from tests.netns.town import town as make_town

HOST = "api.example.com"
PORT = 9443
RESOLVER = "10.98.0.1"
ONLY = egress_policy("only", "REGISTRY_ONLY", app="client")


class Abroad:
    """A mesh whose agents ask a resolver of ours, and a server on the second node that is in no workload."""

    def __init__(self, mesh: Mesh, shop: Shop, zone_file: Path) -> None:
        self.mesh, self.shop, self._zone = mesh, shop, zone_file
        self.node = mesh.b
        self.names()
        run(self.node.outside, "ip", "addr", "add", f"{RESOLVER}/32", "dev", "lo")
        run(mesh.a.outside, "ip", "route", "replace", f"{RESOLVER}/32", "via", self.node.v4)
        self.log = mesh.place.logs / "zone.log"
        self.node.outside.spawn("python", Path(zone.__file__), RESOLVER, zone_file, log=self.log)
        eventually(lambda: "ready" in self.log.read_text(), what="the resolver")

    def names(self, **records: Any) -> None:
        """What the resolver knows (``_`` for a dot)."""
        fresh = self._zone.with_suffix(".new")
        fresh.write_text(json.dumps({name.replace("_", "."): value for name, value in records.items()}))
        fresh.rename(self._zone)

    def serve(self, handler: Any = echo, port: int = PORT) -> Server:
        return Server(self.node.outside.listen(port), handler)

    @property
    def here(self) -> list[dict[str, Any]]:
        """The server's addresses, as endpoints."""
        return [{"address": self.node.v4}, {"address": self.node.v6}]

    def vip(self, family: Family, host: str = HOST) -> str:
        found = {s["hostname"]: s for s in debug(self.mesh.a.outside, "/debug/state")["services"]}
        v4, v6 = found[host]["addresses"]
        return family.form(v4, v6)

    @contextlib.contextmanager
    def entered(self, *entries: dict[str, Any]) -> Iterator[None]:
        """With these entries, once the first node knows and captures them."""
        hosts = {host for each in entries for host in each["spec"]["hosts"]}

        def known() -> set[str]:
            return {s["hostname"] for s in debug(self.mesh.a.outside, "/debug/state")["services"]}

        with self.mesh.applied(*entries):
            eventually(lambda: hosts <= known(), what="the entries arrive")
            yield
        eventually(lambda: not hosts & known(), what="the entries are gone")

    def lines(self, since: int, **wanted: str) -> list[dict[str, str]]:
        return self.mesh.a.access(since=since, dst_service=HOST, **wanted)


@pytest.fixture(scope="module")
def abroad(make_shop: MakeShop, tmp_path_factory: pytest.TempPathFactory) -> Abroad:
    directory = tmp_path_factory.mktemp("abroad")
    conf = directory / "resolv.conf"
    conf.write_text(f"nameserver {RESOLVER}\n")
    shop = make_shop(agent_settings={"NODEMESH_RESOLV_CONF": str(conf)})
    return Abroad(shop.mesh, shop, directory / "zone.json")


def static(abroad: Abroad, **more: Any) -> dict[str, Any]:
    return service_entry("pay", HOST, port=PORT, endpoints=abroad.here, **more)


def reached(abroad: Abroad, family: Family, spot: Spot | None = None) -> bool:
    try:
        with (spot or abroad.shop.client).connect(abroad.vip(family), 443) as connection:
            return roundtrip(connection, b"abroad") == b"abroad"
    except (ConnectionResetError, PermissionError, EOFError):
        return False


def test_a_host_has_a_name_and_is_reached(abroad: Abroad, family: Family) -> None:
    with abroad.serve(), abroad.entered(static(abroad)):
        for kind in ("A", "AAAA"):
            (told,) = ask(abroad.shop.client, HOST, kind, ["192.0.2.53"])
            assert told["records"] == [abroad.vip(Family.V4 if kind == "A" else Family.V6)]
        eventually(lambda: reached(abroad, family))


def test_log_and_metrics_name_the_host(abroad: Abroad, family: Family) -> None:
    with abroad.serve(), abroad.entered(static(abroad)):
        eventually(lambda: reached(abroad, family))
        since = abroad.mesh.a.access_position()
        assert reached(abroad, family)
        line = eventually(lambda: abroad.lines(since, src_workload="client"), what="the line")[-1]
        assert (line["reason"], line["dst.workload"], line["direction"]) == ("ok", "-", "outbound")
        assert line["dst.reached"] in (f"{abroad.node.v4}:{PORT}", f"[{abroad.node.v6}]:{PORT}")
        assert line["bytes_sent"] == line["bytes_recv"] == "6"
        opened = [
            s for s in abroad.mesh.a.metrics()
            if s.name == "istio_tcp_connections_opened_total" and s.labels["destination_service"] == HOST
        ]  # fmt: skip
        assert opened and all(s.labels["connection_security_policy"] == "none" for s in opened)


def test_tls_passes_through(abroad: Abroad, tmp_path: Path, family: Family) -> None:
    """The client verifies the server itself, by the host's own name."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=x", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    seen: list[str | None] = []
    server.sni_callback = lambda _, name, __: seen.append(name)

    def handler(connection: socket.socket) -> None:
        with server.wrap_socket(connection, server_side=True) as secure:
            while data := secure.recv(65536):
                secure.sendall(data)

    client = ssl.create_default_context(cafile=str(certificate))
    with abroad.serve(handler), abroad.entered(static(abroad)):
        plain = eventually(lambda: abroad.shop.client.connect(abroad.vip(family), 443))
        with client.wrap_socket(plain, server_hostname=HOST) as secure:
            data = os.urandom(300_000)
            sender = threading.Thread(target=secure.sendall, args=(data,))
            sender.start()
            got = b""
            while len(got) < len(data):
                got += secure.recv(65536)
            sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest() and seen == [HOST]


def test_a_server_that_speaks_first(abroad: Abroad, family: Family) -> None:
    with (
        abroad.serve(greeter),
        abroad.entered(static(abroad)),
        eventually(lambda: abroad.shop.client.connect(abroad.vip(family), 443)) as connection,
    ):
        assert connection.recv(100) == b"220 ready\r\n"


def test_its_own_addresses_lead_through_the_agent_too(abroad: Abroad, family: Family) -> None:
    with abroad.serve(), abroad.entered(static(abroad)):
        eventually(lambda: reached(abroad, family))
        since = abroad.mesh.a.access_position()
        with abroad.shop.client.connect(family.form(abroad.node.v4, abroad.node.v6), PORT) as connection:
            assert roundtrip(connection, b"direct") == b"direct"
        there = f"{abroad.node.v4}:{PORT}" if family is not Family.V6 else f"[{abroad.node.v6}]:{PORT}"
        (line,) = eventually(lambda: abroad.lines(since, dst_addr=there), what="the line")
        assert (line["src.workload"], line["dst.reached"]) == ("client", there)


def test_names_are_looked_up_by_the_agent(abroad: Abroad, family: Family) -> None:
    abroad.names(api_example_com={"A": [abroad.node.v4], "AAAA": [abroad.node.v6], "ttl": 60})
    asked = len(abroad.log.read_text().splitlines())
    with abroad.serve(), abroad.entered(service_entry("pay", HOST, port=PORT, resolution="DNS")):
        eventually(lambda: reached(abroad, family))
        for _ in range(5):
            assert reached(abroad, family)
    questions = abroad.log.read_text().splitlines()[asked:]
    assert set(questions) <= {f"A {HOST}", f"AAAA {HOST}"} and questions.count(f"A {HOST}") <= 8, "not one a connection"


def test_an_endpoint_may_be_another_name(abroad: Abroad) -> None:
    abroad.names(eu_example_net={"A": [abroad.node.v4], "ttl": 60})
    wanted = service_entry("pay", HOST, port=PORT, resolution="DNS", endpoints=[{"address": "eu.example.net"}])
    with abroad.serve(), abroad.entered(wanted):
        eventually(lambda: reached(abroad, Family.V4))


def test_what_fails_is_told_with_its_reason(abroad: Abroad) -> None:
    abroad.names(loop_example_com={"A": ["127.0.0.1"]}, dead_example_com=None, shut_example_com={"A": [abroad.node.v4]})
    expected = {
        "none.example.com": "name-not-found", "loop.example.com": "name-not-found",
        "dead.example.com": "lookup-failed", "shut.example.com": "connect-refused",
    }  # fmt: skip
    with abroad.entered(service_entry("pay", *expected, port=9, resolution="DNS")):
        for host, reason in expected.items():
            since = abroad.mesh.a.access_position()
            with (
                pytest.raises(ConnectionResetError),  # some so fast that it is the connect that tells
                abroad.shop.client.connect(abroad.vip(Family.V4, host), 443) as connection,
            ):
                connection.recv(1)
            (line,) = eventually(lambda s=since, h=host: abroad.mesh.a.access(since=s, dst_service=h))  # type: ignore[misc]
            assert line["reason"] == reason and line["hint"] and line["error"]


def test_the_registry_is_what_registry_only_allows(abroad: Abroad, family: Family) -> None:
    node = abroad.mesh.a
    with abroad.serve(), abroad.serve(port=PORT + 1), abroad.mesh.applied(ONLY):
        eventually(lambda: mode_of(node, "client") == "REGISTRY_ONLY", what="the policy arrives")
        there = family.form(abroad.node.v4, abroad.node.v6)
        eventually(lambda: leave(abroad.shop.client, "tcp", there, PORT) == "EPERM")
        with abroad.entered(static(abroad)):
            eventually(lambda: reached(abroad, family))
            (told,) = ask(abroad.shop.client, HOST, "A", ["192.0.2.53"])
            assert told["records"] == [abroad.vip(Family.V4)]
            assert leave(abroad.shop.client, "tcp", there, PORT) == "ok", "by its own address"
            assert leave(abroad.shop.client, "tcp", there, PORT + 1) == "EPERM", "another port of it"
            assert leave(abroad.shop.client, "udp-sendto", there, PORT) == "EPERM", "TCP is what is registered"
        eventually(lambda: leave(abroad.shop.client, "tcp", there, PORT) == "EPERM", what="it is not any more")


def test_a_host_that_leaves_the_registry_loses_its_connections(abroad: Abroad, family: Family) -> None:
    with abroad.serve():
        with abroad.entered(static(abroad)):
            eventually(lambda: reached(abroad, family))
            since = abroad.mesh.a.access_position()
            connection = abroad.shop.client.connect(abroad.vip(family), 443)
            assert roundtrip(connection, b"open") == b"open"
        with connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert eventually(lambda: abroad.lines(since, reason="entry-removed"), what="the line")


def test_an_entry_that_leads_to_a_port_for_probes(abroad: Abroad, family: Family) -> None:
    """It names the node's own address: what goes through the mesh is plaintext there, and no health check."""
    shop, node = abroad.shop, abroad.mesh.a
    here = family.form(node.v4, node.v6)
    checked = workload("checked", node.name, ports=[PORT], probePorts=[PORT])
    strict = peer_authentication("checked", "STRICT", app="checked")
    spot = abroad.mesh.spot_of(node, "checked")
    own = node.v6 if family is Family.V6 else node.v4
    entry = service_entry("self", "self.example.com", port=PORT, endpoints=[{"address": own}])
    with Server(spot.listen(PORT), echo), abroad.mesh.applied(checked, strict), abroad.entered(entry):
        abroad.mesh.wait_enrolled(spot)
        eventually(lambda: plain_refused(abroad.node.outside, here), what="STRICT is in force")
        with node.outside.connect(here, PORT) as probe:
            assert roundtrip(probe, b"are you well?") == b"are you well?"
        since = node.access_position()
        with (
            pytest.raises(ConnectionResetError),
            shop.client.connect(abroad.vip(family, "self.example.com"), 443) as connection,
        ):
            connection.recv(1)
        (line,) = eventually(lambda: node.access(since=since, dst_service="self.example.com"), what="the line")
        assert line["reason"] == "connect-refused"


def plain_refused(spot: Spot, address: str) -> bool:
    try:
        spot.connect(address, PORT).close()
    except ConnectionRefusedError:
        return True
    return False


def test_half_close_passes(abroad: Abroad, family: Family) -> None:
    with (
        abroad.serve(),
        abroad.entered(static(abroad)),
        eventually(lambda: abroad.shop.client.connect(abroad.vip(family), 443)) as connection,
    ):
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        got = 0
        while chunk := connection.recv(65536):
            got += len(chunk)
        assert got == 100_000


@pytest.fixture(scope="module")
def town(abroad: Abroad) -> Iterator[Town]:
    with make_town(abroad.shop) as made:
        yield made


def test_a_workload_in_a_namespace_of_its_own_goes_out_from_there(abroad: Abroad, town: Town, family: Family) -> None:
    """The server has an address that only that namespace knows; another one sees the namespace's own address."""
    node, pod = abroad.mesh.a, town.walker
    for command in ("addr replace 10.97.0.1/32 dev lo", "addr replace fd97::1/128 dev lo nodad"):
        run(pod.outside, "ip", *command.split())
    hidden = [{"address": "10.97.0.1"}, {"address": "fd97::1"}]
    with (
        Server(pod.outside.listen(PORT), echo),
        abroad.entered(service_entry("hidden", HOST, port=PORT, endpoints=hidden)),
    ):
        eventually(lambda: reached(abroad, family, pod.spot))
        assert not reached(abroad, family), "from the node's own namespace there is no way"
    near = [{"address": node.v6 if family is Family.V6 else node.v4}]
    with (
        node.outside.listen(PORT) as listener,
        abroad.entered(service_entry("near", HOST, port=PORT, endpoints=near)),
        eventually(lambda: pod.spot.connect(abroad.vip(family), 443)),
    ):
        connection, peer = listener.accept()
        with connection:
            assert peer[0].removeprefix("::ffff:") == (pod.v6 if family is Family.V6 else pod.v4)


def test_operators_see_it(abroad: Abroad) -> None:
    mesh = abroad.mesh
    with abroad.entered(static(abroad)):
        listed = mesh.meshctl("get", "se", "-o", "wide").stdout
        assert HOST in listed and "443/tls" in listed and "STATIC" in listed and "240.240." in listed
        assert "240.240." in mesh.meshctl("describe", "serviceentry", "pay").stdout
        done = mesh.a.outside.run(BIN / "nodeagent", "explain", "shop/client", HOST, "-o", "json", env=mesh.a.settings)
        told = json.loads(done.stdout)
        assert told["verdict"] == "allowed" and abroad.node.v4 in told["steps"][-1]["why"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"hosts": ["*.example.com"]}, "wildcard"),
        ({"endpoints": []}, "STATIC needs endpoints"),
        ({"hosts": ["server.shop.mesh.internal"]}, "Service shop/server"),
    ],
)
def test_what_cannot_be_is_refused(abroad: Abroad, spec: dict[str, Any], words: str) -> None:
    value = static(abroad)
    value["spec"] = {**value["spec"], **spec}
    done = abroad.mesh.meshctl("apply", "-f", abroad.mesh._write((value,)), check=False)
    assert done.returncode != 0 and words in done.stderr
