"""Names: enrolled programs ask for services by name, in any way, and for all else they ask whom they always asked."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns import reading, resources
from tests.netns.conftest import MakeShop
from tests.netns.lab import eventually
from tests.netns.servers import http_hello
from tests.netns.shop import Family, Shop
from tests.netns.spot import Spot

HERE = Path(__file__).parent
PROTOCOLS = ["connected", "sendto", "tcp"]


class World:
    """Two resolvers on the second node, of which the mesh knows nothing."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.v4 = ["10.99.0.1", "10.99.0.2"]
        self.v6 = ["fd99::1", "fd99::2"]
        a, b = shop.mesh.a, shop.mesh.b
        logs = shop.mesh.place.logs
        for ip in (*self.v4, *self.v6):
            bits = 128 if ":" in ip else 32
            run(b.outside, "ip", "addr", "add", f"{ip}/{bits}", "dev", "lo", *(["nodad"] if bits == 128 else []))
            run(a.outside, "ip", "route", "replace", f"{ip}/{bits}", "via", b.v6 if bits == 128 else b.v4)
            log = logs / f"resolver-{ip.replace(':', '.')}.log"
            b.outside.spawn("python3", HERE / "resolver.py", ip, log=log)
            eventually(lambda log=log: "ready" in log.read_text(), what="the resolver")  # type: ignore[misc]

    def resolvers(self, family: Family) -> list[str]:
        """In the form in which a program of that family names them."""
        return [family.form(v4, v6) for v4, v6 in zip(self.v4, self.v6, strict=True)]

    def asked(self) -> str:
        """Everything that any resolver was asked so far."""
        return "".join(log.read_text() for log in self.shop.mesh.place.logs.glob("resolver-*.log"))


def run(spot: Spot, *argv: str | Path) -> bytes:
    done = spot.run(*argv)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def ask(
    spot: Spot, name: str, kind: str, resolvers: list[str], protocol: str = "connected", family: Family = Family.V4,
    payload: int = 4096,
) -> list[dict[str, Any]]:  # fmt: skip
    """What a program in the spot is told. `payload`: what it says that it takes over UDP; 0: it does not say."""
    word = {Family.V4: "v4", Family.V6: "v6", Family.MAPPED: "mapped"}[family]
    program = ("python", HERE / "ask.py", protocol, word, name, kind, *resolvers)
    done = spot.run(*program, env={"ASK_PAYLOAD": str(payload)})
    assert done.returncode == 0, done.stderr.decode()
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def world(make_shop: MakeShop) -> Iterator[World]:
    yield World(make_shop())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("kind", "at"), [("A", "v4"), ("AAAA", "v6")])
def test_a_service_is_found_by_name(world: World, family: Family, protocol: str, kind: str, at: str) -> None:
    (told, *_) = ask(
        world.shop.client, "server.shop.mesh.internal", kind, world.resolvers(family)[:1], protocol, family
    )
    assert told["records"] == [getattr(world.shop.server, at)]
    assert told["from"] == world.resolvers(family)[0], "it seems to come from whom was asked"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everything_else_reaches_the_resolver_that_was_chosen(world: World, family: Family, protocol: str) -> None:
    told = ask(world.shop.client, "www.example.com", "TXT", world.resolvers(family), protocol, family)
    plain = dict(zip(world.resolvers(family), world.v6 if family is Family.V6 else world.v4, strict=True))
    asked = world.resolvers(family)[: 1 if protocol == "connected" else 2]
    assert sorted(each["from"] for each in told) == sorted(asked)
    for each in told:
        assert each["records"][0].startswith(f'"{plain[each["from"]]} '), "each answered for itself"


def test_names_of_the_mesh_never_leave_the_node(world: World) -> None:
    for name in ("nobody.shop.mesh.internal", "server.shop.mesh.internal"):
        ask(world.shop.client, name, "TXT", world.v4[:1])
    marker = b"server".hex()
    assert marker not in world.asked() and b"nobody".hex() not in world.asked()


def test_messages_are_not_changed_on_their_way(world: World) -> None:
    """UPDATE, NOTIFY, SRV with underscores, odd types and classes, EDNS options: byte for byte."""
    program = """
import hashlib, socket, sys
messages = [bytes.fromhex(m) for m in sys.argv[2:]]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8); s.connect((sys.argv[1], 53))
for m in messages:
    s.send(m)
    assert hashlib.sha256(m).hexdigest().encode() in s.recv(65535), m.hex()
"""
    name = b"\x04_sip\x04_tcp\x07example\x03com\x00"
    option = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x06\x00\x41\x00\x02ab"
    head = "abcd{flags}0001000000000000"
    messages = [
        bytes.fromhex(head.format(flags="2800")) + b"\x04mesh\x08internal\x00\x00\x06\x00\x01",  # UPDATE of our zone
        bytes.fromhex(head.format(flags="2000")) + name + b"\x00\x06\x00\x01",  # NOTIFY
        bytes.fromhex(head.format(flags="0100")) + name + b"\x00\x21\x00\x01",  # SRV
        bytes.fromhex(head.format(flags="0100")) + name + b"\xff\xee\x00\x03",  # an odd type, class CHAOS
        bytes.fromhex("abcd01000001000000000001") + name + b"\x00\x01\x00\x01" + option,
    ]
    run(world.shop.client, "python3", "-c", program, world.v4[0], *(message.hex() for message in messages))


def test_a_large_answer_arrives_whole(world: World, family: Family) -> None:
    for protocol in PROTOCOLS:
        (told, *_) = ask(world.shop.client, "large.example.com", "TXT", world.resolvers(family)[:1], protocol, family)
        assert len(told["records"][0]) > 3000


MANY = "many-" + "y" * 58
MANY_NAME = f"{MANY}.shop.mesh.internal"
ADDRESSES = tuple(f"fd6d:6573:68::9:{number:x}" for number in range(1, 17))
"""As many as a service may have: with so long a name they are more than 512 octets."""


@pytest.fixture
def many(world: World) -> Iterator[None]:
    with world.shop.mesh.applied(resources.service(MANY, {80: 8080}, addresses=ADDRESSES)):
        eventually(lambda: ask(world.shop.client, MANY_NAME, "AAAA", world.v4[:1], "tcp")[0]["records"] != [])
        yield


@pytest.mark.usefixtures("many")
def test_an_answer_of_the_mesh_that_does_not_fit(world: World, family: Family) -> None:
    """Over UDP it is cut at what the client takes, and says so; over TCP, or for one that takes more, it is whole."""
    resolver = world.resolvers(family)[:1]
    for protocol, payload in (("connected", 0), ("sendto", 100), ("connected", 512)):
        (told,) = ask(world.shop.client, MANY_NAME, "AAAA", resolver, protocol, family, payload)
        assert told["truncated"] and told["size"] <= 512 and set(told["records"]) < set(ADDRESSES), told
    for protocol, payload in (("connected", 4096), ("sendto", 1232), ("tcp", 0), ("tcp", 512)):
        (told,) = ask(world.shop.client, MANY_NAME, "AAAA", resolver, protocol, family, payload)
        assert not told["truncated"] and sorted(told["records"]) == sorted(ADDRESSES), (protocol, payload)


@pytest.mark.usefixtures("many")
def test_glibc_asks_again_over_tcp(world: World) -> None:
    """Without EDNS, as it is by default, it is told that there is more."""
    found = configured(world, f"getent ahostsv6 {MANY_NAME}").decode().split()
    assert set(ADDRESSES) <= set(found)


def test_a_resolver_that_cuts_its_answer_is_heard_so(world: World, family: Family) -> None:
    (told,) = ask(world.shop.client, "cut.example.com", "TXT", world.resolvers(family)[:1], "connected", family, 512)
    assert told["truncated"] and told["records"] == []
    (told,) = ask(world.shop.client, "cut.example.com", "TXT", world.resolvers(family)[:1], "tcp", family, 512)
    assert not told["truncated"] and len(told["records"]) == 1


SMALL_BUFFER = """
import json, socket, sys
resolver, query = sys.argv[1], bytes.fromhex(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in resolver else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8)
seen = []
for connected in (False, True):
    if connected:
        s.connect((resolver, 53))
    s.send(query) if connected else s.sendto(query, (resolver, 53))
    data, _, flags, source = s.recvmsg(512)
    seen.append([data.hex(), bool(flags & socket.MSG_TRUNC), source[0]])
s.send(query)
seen.append([s.recv(65535, socket.MSG_TRUNC).hex(), False, resolver])
print(json.dumps(seen))
"""


def test_an_answer_larger_than_the_clients_buffer(world: World, family: Family) -> None:
    """A resolver that sends more than the client asked for: the client sees what it would see without the agent, the
    first part, and that something is missing; the next answer is whole.
    """
    resolver = world.resolvers(family)[0]
    query = bytes.fromhex("abcd01000001000000000000") + b"\x05large\x07example\x03com\0\0\x10\0\1"
    with_agent, without = (
        json.loads(run(spot, "python3", "-c", SMALL_BUFFER, resolver, query.hex()))
        for spot in (world.shop.client, world.shop.mesh.a.outside)
    )
    assert with_agent == without
    assert [(len(data) // 2, cut) for data, cut, _ in with_agent[:2]] == [(512, True)] * 2
    assert len(with_agent[2][0]) // 2 > 3000


def test_a_resolver_that_is_not_there_is_told_at_once(world: World) -> None:
    (told,) = ask(world.shop.client, "www.example.com", "A", [world.shop.mesh.b.v4])
    assert told["rcode"] == "SERVFAIL"


def test_programs_outside_and_opted_out_ask_directly(world: World) -> None:
    shop = world.shop
    quiet = shop.mesh.spot_of(shop.mesh.a, "quiet")
    shop.mesh.apply(resources.workload("quiet", shop.mesh.a.name, labels={"nodemesh.io/dns": "off"}))
    shop.mesh.wait_enrolled(quiet)
    for spot in (shop.mesh.a.outside, quiet):
        (told,) = ask(spot, "server.shop.mesh.internal", "TXT", world.v4[:1])
        assert told["records"][0].startswith(f'"{world.v4[0]} ')


def configured(world: World, script: str) -> bytes:
    """The output of a shell script in the client's spot, with our resolvers in /etc/resolv.conf."""
    conf = world.shop.mesh.place.directory / "resolv.conf"
    conf.write_text(f"nameserver {world.v4[0]}\nnameserver {world.v6[0]}\nsearch shop.mesh.internal\n")
    return run(world.shop.client, "unshare", "--mount", "sh", "-c", f"mount --bind {conf} /etc/resolv.conf && {script}")


def test_glibc_finds_services(world: World) -> None:
    found = configured(world, "getent ahosts server && getent ahosts local.shop.mesh.internal").decode().split()
    shop = world.shop
    assert {shop.server.v4, shop.server.v6, shop.local.v4, shop.local.v6} <= set(found)


MUSL = """
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	char text[64];
	int error = getaddrinfo(argv[1], "80", &hints, &found);

	if (error)
		return fprintf(stderr, "%s\\n", gai_strerror(error)), 1;
	for (; found; found = found->ai_next) {
		getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof(text), 0, 0, NI_NUMERICHOST);
		puts(text);
	}
	return 0;
}
"""


def test_musl_finds_services(world: World, tmp_path: Path) -> None:
    """It asks all resolvers at once, over one unconnected socket, and heeds who answers."""
    source, program = tmp_path / "find.c", tmp_path / "find"
    source.write_text(MUSL)
    subprocess.run(["musl-gcc", "-static", "-o", program, source], check=True)
    found = set(configured(world, f"{program} server").decode().split())
    assert found == {world.shop.server.v4, world.shop.server.v6}


def test_a_go_program_finds_services_with_its_own_resolver(world: World) -> None:
    """And its request goes through the mesh, by name."""
    with world.shop.server.serve(http_hello):
        said = configured(world, "GODEBUG=netdns=go hey -n 4 -c 2 http://server.shop.mesh.internal/").decode()
    assert "[200]\t4 responses" in said


def test_garbage_harms_nobody(world: World) -> None:
    program = """
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((sys.argv[1], 53))
for size in (0, 1, 11, 12, 100, 512, 1400, 9000):
    for _ in range(20):
        s.send(os.urandom(size))
t = socket.create_connection((sys.argv[1], 53)); t.settimeout(5); t.sendall(os.urandom(5000)); t.close()
"""
    run(world.shop.client, "python3", "-c", program, world.v4[0])
    (told,) = ask(world.shop.client, "server.shop.mesh.internal", "A", world.v4[:1])
    assert told["records"] == [world.shop.server.v4]


FORWARDER = """
import socket, sys
where, upstream = sys.argv[1:]
family = socket.AF_INET6 if ":" in where else socket.AF_INET
server = socket.socket(family, socket.SOCK_DGRAM); server.bind((where, 53))
print("ready", flush=True)
while True:
    message, source = server.recvfrom(65535)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(8); client.connect((upstream, 53)); client.send(message)
        server.sendto(client.recv(65535), source)
"""


def test_a_resolver_that_is_enrolled_itself_is_asked_once(world: World, family: Family, tmp_path: Path) -> None:
    """The program's question goes through the agent to the resolver, the resolver's own through the agent to the next:
    neither comes back to where it was, and names of the mesh are answered before the first.
    """
    shop = world.shop
    here = "fd53::1" if family is Family.V6 else "127.0.0.53"
    if family is Family.V6:
        run(shop.mesh.a.outside, "ip", "addr", "replace", f"{here}/128", "dev", "lo", "nodad")
    upstream = (world.v6 if family is Family.V6 else world.v4)[0]
    log = tmp_path / "log"
    process = shop.other.spawn("python3", "-c", FORWARDER, here, upstream, log=log)
    eventually(lambda: "ready" in log.read_text(), what="the resolver")
    asked = family.form(here, here)
    name = f"once-{family.name.lower()}.example.com"
    (told,) = ask(shop.client, name, "TXT", [asked], "connected", family)
    assert told["from"] == asked and told["records"][0].startswith(f'"{upstream} ')
    assert world.asked().count(name.partition(".")[0].encode().hex()) == 1
    (told,) = ask(shop.client, "server.shop.mesh.internal", "A", [asked], "connected", family)
    assert told["records"] == [shop.server.v4]
    process.kill()


def test_the_agents_own_ports_are_no_resolver(world: World, family: Family) -> None:
    """Nothing is sent to them but what the kernel takes there."""
    program = """
import socket, sys
family, address = (socket.AF_INET6 if sys.argv[1] != "v4" else socket.AF_INET), sys.argv[2]
s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(0.5)
for port in range(15053, 15057):
    try:
        s.sendto(bytes.fromhex("abcd01000001000000000000") + b"\\3www\\7example\\3com\\0\\0\\1\\0\\1", (address, port))
    except PermissionError:
        continue
    sys.exit("it was sent")
"""
    counted = messages_of(world)
    run(world.shop.client, "python3", "-c", program, family.value, family.form("127.0.0.1", "::1"))
    assert messages_of(world) == counted


def messages_of(world: World) -> float:
    """DNS messages that the agent has seen."""
    return sum(s.value for s in world.shop.mesh.a.metrics() if s.name == "nodemesh_dns_messages_total")


def test_who_is_not_sent_by_the_kernel_gets_no_answer(world: World) -> None:
    program = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    s.connect(("127.0.0.1", 15053))
except PermissionError:
    sys.exit(0)
sys.exit("it could ask")
"""
    run(world.shop.mesh.a.outside, "python3", "-c", program)


def test_without_an_agent_names_outside_the_mesh_go_on_working(world: World, family: Family) -> None:
    shop = world.shop
    shop.mesh.a.stop_agent(signal.SIGKILL)
    try:
        for protocol in PROTOCOLS:
            (told, *_) = ask(shop.client, "www.example.com", "TXT", world.resolvers(family)[:1], protocol, family)
            assert told["rcode"] == "NOERROR"
    finally:
        shop.mesh.a.start_agent()
        shop.mesh.a.wait_ready()
    eventually(
        lambda: ask(shop.client, "server.shop.mesh.internal", "A", world.v4[:1])[0]["records"] == [shop.server.v4],
        what="names are back",
    )


def test_what_became_of_questions_is_counted(world: World) -> None:
    ask(world.shop.client, "server.shop.mesh.internal", "A", world.v4[:1])
    samples = [s for s in world.shop.mesh.a.metrics() if s.name == "nodemesh_dns_messages_total"]
    assert sum(s.value for s in samples if s.labels["outcome"] == "address") >= 1
    assert reading.enrolled(world.shop.mesh.a.outside)
