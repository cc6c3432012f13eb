"""What the demo shows, a function each: its docstring's first line is said before, its answer is what was seen."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable

from tests.demo.cast import REDIS, REDIS_PORT, WEB, WEB_PORT, Cast
from tests.netns.capture import TLS_1_3, Capture
from tests.netns.lab import eventually, identity
from tests.netns.resources import from_principal, policy
from tests.netns.servers import http_get
from tests.netns.tunnel import server_certificate, spiffe_ids

WEB_URL = "http://web.shop.mesh.internal/"
APP_URL = "http://app.shop.mesh.internal/"
VALUE_BYTES = 50 * 1000 * 1000
PIPELINED = 10_000
BLOCK = 1_000_000
ROTATION_SECONDS = 60.0
MIN_EXCHANGES = 100


class CheckError(Exception):
    """What was seen is not what should be."""


def expect(condition: object, text: str) -> None:
    """CheckError with the text unless the condition holds."""
    if not condition:
        raise CheckError(text)


def http_across(cast: Cast) -> str:
    """The client on node-a asks nginx on node-b, by the service's name (over IPv4, then IPv6)."""
    for option in ("-4", "-6"):
        page = cast.curl(cast.client, WEB_URL, option)
        expect("front page of nginx" in page, f"{WEB_URL} answered {page!r}")
    lines = eventually(lambda: cast.mesh.b.access(direction="inbound", dst_workload="web", reason="ok"))
    return f"200 from nginx over IPv4 and IPv6; node-b's agent served {lines[-1]['src.identity']}"


def http_same_node(cast: Cast) -> str:
    """The client asks the app, which runs on the same node."""
    for option in ("-4", "-6"):
        page = cast.curl(cast.client, APP_URL, option)
        expect("hello" in page, f"{APP_URL} answered {page!r}")
    line = eventually(lambda: cast.mesh.a.access(direction="outbound", dst_workload="app", reason="ok"))[-1]
    expect(line["dst.hbone_addr"] == "-", f"a tunnel was used on the same node: {line}")
    return "200 from the app; both ends authorized by the one agent, no tunnel"


def app_calls_both(cast: Cast) -> str:
    """The app is asked for a page for which it needs both nginx and redis, each on the other node."""
    pages = [cast.curl(cast.client, f"{APP_URL}visit") for _ in range(3)]
    expect('"visit": 3' in pages[-1] and "front page of nginx" in pages[-1], f"the app answered {pages[-1]!r}")
    return "three mesh connections deep: client, app, nginx and redis; the third visit was counted as 3"


def redis_simple(cast: Cast) -> str:
    """redis-cli SET and GET, from node-a to the redis-server on node-b."""
    expect(cast.redis_cli("SET", "greeting", "hello mesh").strip() == b"OK", "SET was not answered by OK")
    answer = cast.redis_cli("GET", "greeting").strip()
    expect(answer == b"hello mesh", f"GET answered {answer!r}")
    return "SET greeting, GET greeting: 'hello mesh'"


def redis_bulk(cast: Cast) -> str:
    """A value of 50 MB goes to redis and comes back."""
    value = os.urandom(BLOCK) * (VALUE_BYTES // BLOCK)
    started = time.monotonic()
    cast.redis_cli("-x", "SET", "big", stdin=value)
    answer = cast.redis_cli("GET", "big")[: len(value)]
    seconds = time.monotonic() - started
    digests = [hashlib.sha256(data).hexdigest()[:16] for data in (value, answer)]
    expect(digests[0] == digests[1], f"sent sha256 {digests[0]}, got {len(answer)} bytes with {digests[1]}")
    return f"50 MB there and back in {seconds:.1f} s, sha256 {digests[0]}... both times"


def redis_pipeline(cast: Cast) -> str:
    """redis-cli --pipe sends 10,000 commands without waiting for answers."""
    cast.redis_cli("DEL", "counter")
    answer = cast.redis_cli("--pipe", stdin=b"INCR counter\r\n" * PIPELINED).decode()
    expect(f"errors: 0, replies: {PIPELINED}" in answer, f"redis-cli said {answer!r}")
    counted = cast.redis_cli("GET", "counter").strip().decode()
    expect(counted == str(PIPELINED), f"the counter stands at {counted}")
    return f"{PIPELINED} INCRs in one go, every one answered in order"


def wire(cast: Cast) -> str:
    """The bytes between the nodes are recorded while the client and an outsider talk, and then searched."""
    secret, value = cast.secret.encode(), f"value-{cast.secret}"
    with Capture(cast.outsider) as capture:
        cast.curl(cast.client, f"{WEB_URL}?q={cast.secret}")
        cast.redis_cli("SET", "secret", value * 500)
        expect(value.encode() in cast.redis_cli("GET", "secret"), "redis lost the secret")
        server_certificate(cast.outsider, cast.mesh.b.v4, "web.shop.workload.mesh.internal")
    expect(capture.drops == 0, f"{capture.drops} frames were not recorded")
    expect(capture.tunnel_segments(), "nothing crossed the link on port 15008")
    for words in (secret, b"GET /?q=", b"HTTP/1.1", b"front page"):
        expect(not capture.contains(words), f"the wire shows {words!r}")
    versions = capture.tls_versions()
    expect(versions and set(versions) == {TLS_1_3}, f"TLS versions chosen: {[hex(v) for v in versions]}")
    with Capture(cast.outsider) as control:
        cast.curl(cast.outsider, f"http://{cast.mesh.b.v4}:{WEB_PORT}/")
    expect(control.contains(secret), "the search does not find what is there in the clear")
    return (
        f"{len(capture.tunnel_segments())} segments on port 15008, TLS 1.3, neither request nor value in them "
        "(the same page fetched outside the mesh is readable)"
    )


def peers(cast: Cast) -> str:
    """Whose certificates did the two agents show each other?"""
    cast.curl(cast.client, WEB_URL)
    shown = server_certificate(cast.outsider, cast.mesh.b.v4, "web.shop.workload.mesh.internal")
    expect(spiffe_ids(shown) == [identity("web")], f"node-b shows {spiffe_ids(shown)} for web")
    seen_by_a = eventually(lambda: cast.mesh.a.access(direction="outbound", dst_workload="web"))[-1]
    seen_by_b = eventually(lambda: cast.mesh.b.access(direction="inbound", dst_workload="web", src_workload="client"))[
        -1
    ]
    expect(seen_by_a["dst.identity"] == identity("web"), f"node-a saw {seen_by_a['dst.identity']}")
    expect(seen_by_b["src.identity"] == identity("client"), f"node-b saw {seen_by_b['src.identity']}")
    return f"node-a saw {identity('web')}, node-b saw {identity('client')}: the workloads, not the nodes"


def deny(cast: Cast) -> str:
    """A connection to redis is open. Now a policy refuses the client."""
    rule = policy("no-redis-for-client", "DENY", app="redis", rules=[from_principal("client")])
    with cast.client.connect(REDIS, REDIS_PORT) as connection:
        connection.sendall(b"PING\r\n")
        expect(connection.recv(100) == b"+PONG\r\n", "redis did not answer before the policy")
        with cast.mesh.applied(rule):
            applied = time.monotonic()
            connection.settimeout(5)
            try:
                rest = connection.recv(100)
            except ConnectionResetError:
                took = time.monotonic() - applied
            else:
                raise CheckError(f"the open connection was not reset, it gave {rest!r}")
            try:
                answer = cast.redis_cli("PING")
            except OSError as error:
                refusal = str(error)
            else:
                raise CheckError(f"a new connection was served: {answer!r}")
            expect(cast.curl(cast.client, f"{APP_URL}visit"), "the app, which may, was refused")
    eventually(lambda: cast.redis_cli("PING").strip() == b"PONG", what="admitted again without the policy")
    when = f"{took * 1000:.0f} ms after" if took > 0.005 else "before"
    return f"open: reset {when} 'meshctl apply' had returned; new: '{refusal[:60]}'; removed: PONG again"


def outsider(cast: Cast) -> str:
    """A program on node-a that is no workload asks nginx directly."""
    page = cast.curl(cast.outsider, f"http://{cast.mesh.b.v4}:{WEB_PORT}/")
    expect("front page" in page, f"nginx answered {page!r}")
    seen = cast.web_clients()[-1]
    expect(seen in (cast.mesh.a.v4, f"::ffff:{cast.mesh.a.v4}"), f"nginx saw {seen}")
    try:
        cast.curl(cast.outsider, f"http://{WEB}/")
    except OSError:
        return f"let in as plaintext (PERMISSIVE); nginx saw {seen}; virtual addresses mean nothing to it"
    raise CheckError("the virtual address was served to a program outside the mesh")


def rotation(cast: Cast) -> str:
    """Certificates live for seconds here. Traffic runs until they have been replaced."""
    serials = {name: _serial(cast, name) for name in ("web", "redis")}
    stop = threading.Event()
    failures: list[str] = []
    counts = {"one connection": 0, "new connections": 0, "redis": 0}

    def kept_open() -> None:
        with cast.client.connect(WEB, 80) as connection:
            while not stop.wait(0.01):
                expect(http_get(connection, "/")[0] == 200, "not 200")
                counts["one connection"] += 1

    def always_new() -> None:
        while not stop.wait(0.02):
            with cast.spots[0].connect(WEB, 80) as connection:
                expect(http_get(connection, "/")[0] == 200, "not 200")
            counts["new connections"] += 1

    def redis() -> None:
        with cast.spots[1].connect(REDIS, REDIS_PORT) as connection:
            while not stop.wait(0.01):
                connection.sendall(b"PING\r\n")
                expect(connection.recv(100) == b"+PONG\r\n", "no PONG")
                counts["redis"] += 1

    def guarded(run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:
            failures.append(f"{run.__name__}: {error!r}")

    threads = [threading.Thread(target=guarded, args=(run,)) for run in (kept_open, always_new, redis)]
    for thread in threads:
        thread.start()
    try:
        eventually(
            lambda: failures or all(_serial(cast, name) != old for name, old in serials.items()),
            within=ROTATION_SECONDS,
            what="new certificates",
        )
        after = dict(counts)
        eventually(lambda: failures or all(counts[k] > after[k] + MIN_EXCHANGES // 2 for k in counts), within=20)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    expect(not failures, f"lost: {failures}")
    return f"new certificates for web and redis; {sum(counts.values())} exchanges meanwhile, none lost"


def _serial(cast: Cast, name: str) -> int:
    address = cast.mesh.b.v4
    return server_certificate(cast.outsider, address, f"{name}.shop.workload.mesh.internal").serial_number


def without_control(cast: Cast) -> str:
    """control is killed (SIGKILL)."""
    with cast.client.connect(WEB, 80) as connection:
        expect(http_get(connection, "/")[0] == 200, "not 200 before")
        cast.mesh.stop_control()
        expect(http_get(connection, "/")[0] == 200, "the open connection broke")
    for _ in range(5):
        expect("front page" in cast.curl(cast.client, WEB_URL), "a new connection failed")
        expect('"visit"' in cast.curl(cast.client, f"{APP_URL}visit"), "the app lost its neighbours")
    return "the open connection went on, new ones across and on the node work"


def agent_killed(cast: Cast) -> str:
    """node-a's agent is killed (SIGKILL)."""
    node = cast.mesh.a
    node.stop_agent(signal.SIGKILL)
    started = time.monotonic()
    try:
        cast.client.connect(WEB, 80).close()
    except ConnectionRefusedError:
        took = time.monotonic() - started
    else:
        raise CheckError("a mesh connection succeeded without an agent")
    expect(
        "front page" in cast.curl(cast.outsider, f"http://{cast.mesh.b.v4}:{WEB_PORT}/"), "outside traffic broke too"
    )
    node.start_agent()
    node.wait_ready()
    eventually(lambda: "front page" in cast.curl(cast.client, WEB_URL), within=20)
    return f"refused after {took * 1000:.0f} ms, not a hang and not past the mesh; restarted: 200 again"
