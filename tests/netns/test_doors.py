"""The agent's ports and its neighbours: what another workload, or any program of the host, makes of them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import reading, resources
from tests.netns.conftest import MakeShop
from tests.netns.lab import Node, eventually
from tests.netns.resources import egress_policy, from_principal, peer_authentication, policy
from tests.netns.servers import Server, echo, roundtrip
from tests.netns.shop import TARGET_PORT, Family, Shop
from tests.netns.spot import Spot
from tests.netns.test_dns import World, ask

NOBODY = "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\n"
TCP_PORTS = (15000, 15001, 15006, 15008, 15020, 15021)
UDP_PORTS = (15053, 15054, 15055, 15056)
RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"


@pytest.fixture(scope="module")
def shop(make_shop: MakeShop) -> Iterator[Shop]:
    """A mesh whose agents are killed on purpose."""
    shop = make_shop()
    yield shop


@pytest.fixture(scope="module")
def world(shop: Shop) -> World:
    return World(shop)


def say(spot: Spot, code: str, *argv: object, timeout: float = 60) -> str:
    """What a Python program prints there."""
    done = spot.run("python3", "-c", code, *map(str, argv), timeout=timeout)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def sysctl(node: Node, path: str, text: str | None = None) -> str:
    """What it is there; and from now on the text, if there is one."""
    before = subprocess.run(node.site.enter("cat", path), capture_output=True, text=True, check=True).stdout.strip()
    if text is not None:
        subprocess.run(node.site.enter("sh", "-c", f"echo '{text}' > {path}"), check=True)
    return before


@contextlib.contextmanager
def ephemeral(node: Node, text: str) -> Iterator[None]:
    before = sysctl(node, RANGE, text)
    try:
        yield
    finally:
        sysctl(node, RANGE, before)


@contextlib.contextmanager
def dead(node: Node) -> Iterator[None]:
    """The node's agent was killed; afterwards it runs again."""
    node.stop_agent(signal.SIGKILL)
    try:
        yield
    finally:
        node.start_agent()
        node.wait_ready()


TAKE = (
    "import json, struct\n"
    + NOBODY
    + """
how, wanted = sys.argv[1], json.loads(sys.argv[2])
kept, got = [], set()
for n in range(80):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if how == "listen" else socket.SOCK_DGRAM)
    if len(sys.argv) > 3:  # IP_LOCAL_PORT_RANGE, Linux 6.3: the program chooses
        port = wanted[n % len(wanted)]
        try: s.setsockopt(socket.IPPROTO_IP, 51, struct.pack("=I", port << 16 | port))
        except OSError: break
    try: s.listen(5) if how == "listen" else s.sendto(b"", ("127.0.0.1", 9))
    except OSError: continue
    kept.append(s); got.add(s.getsockname()[1])
print(json.dumps(sorted(got & set(wanted))))
"""
)


@pytest.mark.parametrize("how", ["listen", "sendto"])
def test_while_the_agent_is_dead_nobody_is_given_its_ports_without_bind(shop: Shop, how: str) -> None:
    node, wanted = shop.mesh.a, TCP_PORTS if how == "listen" else UDP_PORTS
    with dead(node):
        with ephemeral(node, f"{wanted[0] - 8} {wanted[-1] + 8}"):
            assert say(node.outside, TAKE, how, json.dumps(wanted)) == "[]"
        with ephemeral(node, "1024 65535"):
            assert say(node.outside, TAKE, how, json.dumps(wanted), "range") == "[]"


THIEF = """
import json, socket, sys
kept = []
def take(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM); kept.append(s)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): s.setsockopt(socket.SOL_SOCKET, option, 1)
    try: s.bind((address, port))
    except OSError as e: return e.errno
    return 0
print(json.dumps([take(kind, address, port) for kind, port in json.loads(sys.argv[1]) for address in sys.argv[2:]]))
"""


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
def test_root_without_capabilities_joins_no_listener_of_the_agent(shop: Shop, alive: bool) -> None:
    """In an enrolled cgroup, in none, in the node's own network namespace: f02 and the other doors."""
    node = shop.mesh.b
    wanted = json.dumps([*(("tcp", port) for port in TCP_PORTS), *(("udp", port) for port in UDP_PORTS)])
    places = ("127.0.0.1", "::1", "0.0.0.0", "::", "127.0.0.2", node.v4, node.v6, "::ffff:127.0.0.1")
    with contextlib.nullcontext() if alive else dead(node):
        for spot in (shop.remote, node.outside):
            bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
            done = spot.run(*bare, "python3", "-c", THIEF, wanted, *places)
            found = set(json.loads(done.stdout))
            # the manager's listeners are in no group that could be joined
            assert errno.EPERM in found and found <= {errno.EPERM, errno.EADDRINUSE}, (done.stdout, done.stderr)
    with shop.server.serve(echo):
        for _ in range(20):
            with shop.mesh.a.outside.connect(node.v4, TARGET_PORT) as plain, shop.dial(shop.server) as captured:
                assert roundtrip(plain, b"plaintext") == b"plaintext"
                assert roundtrip(captured, b"by a tunnel") == b"by a tunnel"


HOLDS = """
import socket, sys, time
kept = []
for source, port, address, to in [arg.split(",") for arg in sys.argv[1:]]:
    s = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET); kept.append(s)
    s.bind((source, int(port))); s.connect((address, int(to)))
print("held", flush=True)
time.sleep(600)
"""


def test_an_agent_starts_although_old_connections_have_its_ports(shop: Shop, tmp_path: Path) -> None:
    """From a time before they were reserved: ordinary outgoing connections, alive and in TIME_WAIT."""
    node, peer = shop.mesh.a, shop.mesh.b
    log = tmp_path / "holder.log"
    with peer.outside.listen(7999) as listener:
        node.stop_agent(signal.SIGKILL)
        try:
            node.nodeagent("unload")
            assert not set(sysctl(node, RESERVED).split(",")) & {"15000-15001", "15008"}
            ends = [f"{node.v6},{port},{peer.v6},7999" for port in TCP_PORTS]
            ends += [f"{node.v4},{port},{peer.v4},7999" for port in TCP_PORTS]
            process = node.outside.spawn("python3", "-c", HOLDS, *ends, log=log)
            eventually(lambda: "held" in log.read_text(), what="connections from the agent's ports")
        finally:
            node.start_agent()
            node.wait_ready()
        mended = node.log.read_text()
        assert "port 15008 is held by" in mended and f"(process {process.pid})" in mended
        ways = ((shop.server, shop.client), (shop.local, shop.client), (shop.local, shop.remote))
        with shop.server.serve(echo), shop.local.serve(echo):
            for (behind, source), family in itertools.product(ways, Family):
                with shop.dial(behind, family, source=source) as connection:
                    assert roundtrip(connection, b"all the same") == b"all the same"
        process.kill()
        process.wait()
        listener.close()
    with dead(node):  # what is in TIME_WAIT now is in nobody's way either
        pass
    assert "15000-15001" in sysctl(node, RESERVED)


def test_a_port_that_somebody_listens_on_is_told_with_the_program(shop: Shop, tmp_path: Path) -> None:
    node, log = shop.mesh.a, tmp_path / "holder.log"
    node.stop_agent()
    node.nodeagent("unload")
    code = """
import socket, time
s = socket.create_server(("127.0.0.1", 15006)); print("taken", flush=True); time.sleep(600)
"""
    process = node.outside.spawn("python3", "-c", code, log=log)
    try:
        eventually(lambda: "taken" in log.read_text(), what="the port is taken")
        position = len(node.log.read_text())
        node.start_agent()
        holder = f"127.0.0.1:15006, listening, of python3 (process {process.pid})"
        why = f"cannot listen on 127.0.0.1:15006: the port is held by {holder}"
        eventually(lambda: why in node.log.read_text()[position:], what="the holder is named")
    finally:
        process.kill()
        process.wait()
    if node.agent.poll() is not None:
        node.start_agent()
    node.wait_ready()


def test_unload_gives_reserved_ports_back(shop: Shop) -> None:
    node = shop.mesh.a
    sysctl(node, RESERVED, "8080," + sysctl(node, RESERVED))
    node.stop_agent()
    node.nodeagent("unload")
    assert sysctl(node, RESERVED) == "8080"
    node.start_agent()
    node.wait_ready()
    assert sysctl(node, RESERVED) == "8080,15000-15001,15006,15008,15020-15021,15053-15056"
    sysctl(node, RESERVED, "15000-15001,15006,15008,15020-15021,15053-15056")


# --- whose a question is ---


VICTIM = """
import socket, dns.message, sys
s = socket.socket(2, 2); s.settimeout(5); s.connect((sys.argv[1], 53))
print(s.getsockname()[1], flush=True); sys.stdin.readline()
q = dns.message.make_query("bank.example", "TXT"); s.send(q.to_wire())
print(dns.message.from_wire(s.recv(4096)).answer[0][0].to_text().strip('"').split()[0])
"""
ATTACKER = (
    "import dns.message, dns.rdtypes.ANY.TXT\n"
    + NOBODY
    + """
s = socket.socket(2, 2); s.bind(("127.0.0.2", int(sys.argv[1])))
s.sendto(dns.message.make_query("x.example", "TXT").to_wire(), (sys.argv[2], 53))
"""
)


def test_a_question_goes_to_the_resolver_that_its_own_socket_asked(shop: Shop, world: World) -> None:
    """Another workload sends one datagram from the victim's port at another address."""
    mine, theirs = world.v4
    with subprocess.Popen(
        shop.client.command("python3", "-c", VICTIM, mine), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=shop.mesh.env,
    ) as victim:  # fmt: skip
        assert victim.stdout is not None
        port = victim.stdout.readline().strip()
        say(shop.other, ATTACKER, port, theirs)
        assert victim.communicate("\n", timeout=20)[0].strip() == mine


EXCHANGES = """
import socket, dns.message, sys
address, resolver, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
wrong = 0
query = dns.message.make_query("swap.example", "TXT").to_wire()
for n in range(count):
    s = socket.socket(2, 2); s.settimeout(8); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 41000 + n % 64)); s.sendto(query, (resolver, 53))
    answer = dns.message.from_wire(s.recv(4096)).answer[0][0].to_text().strip('"').split()[0]
    wrong += answer != resolver
    s.close()
print(wrong)
"""


def test_ten_thousand_exchanges_over_equal_ports_are_never_swapped(shop: Shop, world: World) -> None:
    count = 5000
    mine, theirs = world.v4
    with subprocess.Popen(
        shop.other.command("python3", "-c", EXCHANGES, "127.0.0.2", theirs, str(count)), stdout=subprocess.PIPE,
        text=True, env=shop.mesh.env,
    ) as other:  # fmt: skip
        assert say(shop.client, EXCHANGES, "127.0.0.3", mine, count, timeout=110) == "0"
        assert other.communicate(timeout=110)[0].strip() == "0"


REPLAY = (
    "import dns.message\n"
    + NOBODY
    + """
query, got = dns.message.make_query("stolen.example", "TXT").to_wire(), []
for port in range(40000, 40200):
    s = socket.socket(2, 2); s.settimeout(0.02)
    try: s.bind(("127.0.0.1", port)); s.sendto(query, ("127.0.0.1", 15053)); got.append(s.recv(999))
    except OSError: pass
    s.close()
print(len(got))
"""
)
ONCE = """
import socket, dns.message, sys
s = socket.socket(2, 2); s.settimeout(5); s.bind(("", 40123))
s.sendto(dns.message.make_query("innocent.example", "TXT").to_wire(), (sys.argv[1], 53)); s.recv(999)
"""


def test_nobody_asks_as_a_neighbour_by_the_port_that_it_had(shop: Shop, world: World) -> None:
    """A confined workload, and a program in none: f05."""
    with shop.mesh.applied(egress_policy("confine", "REGISTRY_ONLY", app="other")):
        eventually(lambda: refused_dns(shop.other, world.v4[0]), what="the policy is in force")
        say(shop.client, ONCE, world.v4[0])
        for spot in (shop.other, shop.mesh.a.outside):
            assert say(spot, REPLAY) == "0"
    assert b"stolen".hex() not in world.asked()


def refused_dns(spot: Spot, resolver: str) -> bool:
    code = """
import socket, sys
try: socket.socket(2, 2).connect((sys.argv[1], 99)); print("let out")
except OSError: print("kept")
"""
    return say(spot, code, resolver) == "kept"


# --- links, addresses, neighbours ---


LINK_LOCAL = """
import socket, sys, dns.message
import threading
where = (sys.argv[1], 53, 0, socket.if_nametoindex("mesh0"))
s = socket.socket(10, 2); s.bind(where)
t = socket.socket(10, 1); t.setsockopt(1, 2, 1); t.bind(where); t.listen(5)
def streams():
    while True:
        c, _ = t.accept(); d = c.recv(4096); a = dns.message.make_response(dns.message.from_wire(d[2:])).to_wire()
        c.sendall(len(a).to_bytes(2, "big") + a); c.close()
threading.Thread(target=streams, daemon=True).start()
print("ready", flush=True)
while True:
    m, f = s.recvfrom(4096); s.sendto(dns.message.make_response(dns.message.from_wire(m)).to_wire(), f)
"""
ASK_LINK_LOCAL = """
import socket, sys, dns.message
where = (sys.argv[1], 53, 0, socket.if_nametoindex("mesh0"))
query, codes = dns.message.make_query("www.example.org", "A").to_wire(), []
for connected in (True, False):
    s = socket.socket(10, 2); s.settimeout(4)
    if connected: s.connect(where); s.send(query)
    else: s.sendto(query, where)
    codes.append(dns.message.from_wire(s.recv(4096)).rcode())
s = socket.socket(10, 1); s.settimeout(4); s.connect(where); s.sendall(len(query).to_bytes(2, "big") + query)
data = b""
while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"): data += s.recv(4096)
codes.append(dns.message.from_wire(data[2:]).rcode())
print([int(c) for c in codes])
"""


def test_a_resolver_at_a_link_local_address_answers(shop: Shop, tmp_path: Path) -> None:
    """Connected, not connected, and by TCP; as it does for a program outside the mesh."""
    shown = "ip -6 -o addr show dev mesh0 scope link | awk '{print $4}' | cut -d/ -f1"
    local = subprocess.run(
        shop.mesh.b.site.enter("sh", "-c", shown), capture_output=True, text=True, check=True
    ).stdout.strip()
    log = tmp_path / "resolver.log"
    process = shop.mesh.b.outside.spawn("python3", "-c", LINK_LOCAL, local, log=log)
    eventually(lambda: "ready" in log.read_text(), what="the resolver")
    for spot in (shop.mesh.a.outside, shop.client):
        assert say(spot, ASK_LINK_LOCAL, local) == "[0, 0, 0]"
    process.kill()


def test_a_program_that_asked_may_connect_to_anywhere(shop: Shop, world: World, family: Family) -> None:
    """From the address that it would have without the mesh, which getsockname() tells as well."""
    code = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53)); a = s.getsockname()[0]
s.connect((sys.argv[2], 9)); print(a, s.getsockname()[0])
"""
    peer, own = shop.mesh.b, shop.mesh.a
    seen = say(shop.client, code, world.resolvers(family)[0], family.form(peer.v4, peer.v6))
    assert seen.split() == [family.form(own.v4, own.v6)] * 2


def test_the_mesh_is_asked_after_all_that(shop: Shop, world: World) -> None:
    (told,) = ask(shop.client, "server.shop.mesh.internal", "A", world.v4[:1])
    assert told["records"] == [shop.server.v4]


def test_of_two_workloads_with_one_port_neither_reaches_the_other_past_its_policies(shop: Shop) -> None:
    """Each with an address of its own: f04."""
    mesh, node, second = shop.mesh, shop.mesh.b, "10.77.0.22"
    subprocess.run(node.site.enter("ip", "addr", "add", f"{second}/24", "dev", "mesh0"), check=True)
    one, two = mesh.spot_of(node, "one"), mesh.spot_of(node, "two")
    mesh.apply(resources.node(node.name, node.v4, node.v6, second))
    with mesh.applied(
        resources.workload("one", node.name, addresses=[second], appAddress="127.0.0.11"),
        resources.workload("two", node.name, addresses=[node.v4], appAddress="127.0.0.12"),
        resources.service("two", {80: 9100}, addresses=("240.240.1.9",)),
        resources.service("one", {80: 9100}, addresses=("240.240.1.8",)),
        peer_authentication("strict", "STRICT"),
        policy("deny-one", "DENY", app="two", rules=[from_principal("one")]),
    ):
        mesh.wait_enrolled(one, two)
        with Server(two.listen(9100, address="127.0.0.12"), echo), Server(one.listen(9100, address="127.0.0.11"), echo):
            for ip in ("127.0.0.11", "127.0.0.12"):
                eventually(lambda ip=ip: not answers(node.outside, ip), what="STRICT is in force")
            for spot in (one, shop.remote, node.outside):
                assert not answers(spot, "127.0.0.12")
            for spot in (two, shop.remote, node.outside):
                assert not answers(spot, "127.0.0.11")
            assert answers(one, "127.0.0.11") and answers(two, "127.0.0.12"), "itself it reaches"
            assert not answers(one, "240.240.1.9", 80), "DENY"
            assert answers(two, "240.240.1.8", 80)
    mesh.apply(resources.node(node.name, node.v4, node.v6))
    subprocess.run(node.site.enter("ip", "addr", "del", f"{second}/24", "dev", "mesh0"), check=True)


def answers(spot: Spot, address: str, port: int = 9100) -> bool:
    try:
        with spot.connect(address, port, timeout=4) as connection:
            connection.settimeout(4)
            return roundtrip(connection, b"hello") == b"hello"
    except (OSError, AssertionError, EOFError):
        return False


def test_it_is_all_there_at_the_end(shop: Shop) -> None:
    for node in shop.mesh.nodes:
        assert reading.enrolled(node.outside)
    with shop.server.serve(echo), shop.dial(shop.server) as connection:
        assert roundtrip(connection, b"yes") == b"yes"
